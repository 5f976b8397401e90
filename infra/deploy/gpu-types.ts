// Modal's GPU types: memory sizes, and types with published measurements.

/** GPU memory in GiB per Modal GPU type; the minimum if the type comprises several variants. */
const GIB_OF_TYPE: Record<string, number> = {
  ...{ T4: 16, L4: 24, A10: 24, A10G: 24, L40S: 48, A100: 40, 'A100-40GB': 40, 'A100-80GB': 80 },
  ...{ 'RTX-PRO-6000': 96, H100: 80, 'H100!': 80, H200: 141, B200: 180, 'B200+': 180 },
}
/** Fraction of memory available beside the driver, as in gpu-fn/engine/device.ts. */
const SHARE = 0.97
const GIB = 2 ** 30
/** Types with measurements in docs/performance.md. Others can be measured with `npm run bench -- gpu --short`. */
export const MEASURED: readonly string[] = ['H100', 'H100!', 'H200']

/** Types with less memory than required, and their usable bytes. Types of unknown size are omitted. */
export function findTypesTooSmall(types: readonly string[], neededBytes: number): { name: string; bytes: number }[] {
  return types
    .map((name) => ({ name, bytes: (GIB_OF_TYPE[name] ?? Number.POSITIVE_INFINITY) * GIB * SHARE }))
    .filter(({ bytes }) => neededBytes > bytes)
}

/** A sentence that lists the measured and the unmeasured types. */
export function describeMeasured(types: readonly string[]): string {
  const [measured, others] = [true, false].map((is) => types.filter((type) => MEASURED.includes(type) === is))
  const parts = [
    ...(measured!.length > 0 ? [`measured: ${measured!.join(', ')} (docs/performance.md)`] : []),
    ...(others!.length > 0 ? [`never measured: ${others!.join(', ')} (npm run bench -- gpu --short)`] : []),
  ]
  return `GPU types ${parts.join('; ')}`
}
