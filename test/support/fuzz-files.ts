/** Number of damaged files that a fuzzer opens; the variable FUZZ_FILES sets another. */
export const FUZZ_FILES = Number(process.env.FUZZ_FILES ?? 2_000)
