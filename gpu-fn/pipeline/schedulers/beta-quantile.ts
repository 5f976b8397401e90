// The quantile function of the beta distribution, scipy's `beta.ppf`, for the schedules of that name.

/** Both parameters of the schedules' distribution, arXiv 2407.12173. */
const ALPHA = 0.6
/** Terms of the series; each is smaller than half of the one before it. */
const TERMS = 60

/** ∫₀ˣ t^(a-1) (1-t)^(a-1) dt for x ≤ 1/2, by the binomial series of (1-t)^(a-1). */
function computeIncompleteBeta(x: number): number {
  let coefficient = 1
  let sum = 0
  for (let k = 0; k < TERMS; k++) {
    sum += (coefficient * x ** k) / (ALPHA + k)
    coefficient *= (k + 1 - ALPHA) / (k + 1)
  }
  return sum * x ** ALPHA
}

/** The quantile at `probability`, from 0 to 1. */
export function computeBetaQuantile(probability: number): number {
  // The distribution is symmetric. The middle must be exact: the schedule `beta` rounds half an index there.
  if (probability === 0.5) return 0.5
  if (probability > 0.5) return 1 - computeBetaQuantile(1 - probability)
  const target = 2 * computeIncompleteBeta(0.5) * probability
  let [low, high] = [0, 0.5]
  for (let middle = 0.25; middle > low && middle < high; middle = (low + high) / 2) {
    if (computeIncompleteBeta(middle) < target) low = middle
    else high = middle
  }
  return high
}
