// The systems of `npm run bench -- gpu`.
import type { GpuVariant, Target, Tier } from './packages.ts'
import type { TorchPlan } from './plan.ts'

export type System =
  | {
      readonly kind: 'torch'
      readonly way: TorchPlan['way'] /** For the article's table only. */
      readonly article?: boolean
    }
  | {
      readonly kind: 'octet'
      readonly target: Target
      readonly tier: Tier
      readonly gigabytes?: number
      /** 8-bit adaLN and 4-bit T5 weights. */
      readonly small?: boolean
    }
  | { readonly kind: 'start'; readonly target: Target; readonly tier: Tier; readonly cold?: boolean }

/** The systems by name, most important first, because a run may be interrupted. */
export function listSystems(device: 'cuda' | 'cpu', variant: GpuVariant): Record<string, System> {
  const best: Target = device === 'cuda' ? 'cuda-fp8' : device
  const gigabytes = variant === 'large' ? 8 : 4
  // Slightly less than half of PyTorch's memory.
  const half = variant === 'large' ? 15 : 9
  const min = variant === 'large' ? 6 : 3
  return {
    'octet-fp8': { kind: 'octet', target: best, tier: 'fp8' },
    'torch-bf16': { kind: 'torch', way: 'eager' },
    [`octet-fp8-in-${gigabytes}gb`]: { kind: 'octet', target: best, tier: 'fp8', gigabytes },
    [`octet-fp8-in-${half}gb`]: { kind: 'octet', target: best, tier: 'fp8', gigabytes: half },
    'torch-bf16-compile': { kind: 'torch', way: 'compile' },
    ...(device === 'cuda' && { 'octet-fp8-weight-only': { kind: 'octet', target: device, tier: 'fp8' } as const }),
    'octet-fp8-small': { kind: 'octet', target: best, tier: 'fp8', small: true },
    'start-fp8': { kind: 'start', target: best, tier: 'fp8' },
    'octet-fp8-lite': { kind: 'octet', target: best, tier: 'fp8-lite' },
    'octet-fp8-int4': { kind: 'octet', target: best, tier: 'fp8-int4' },
    [`octet-fp8-int4-in-${min}gb`]: { kind: 'octet', target: best, tier: 'fp8-int4', gigabytes: min },
    'octet-fp16': { kind: 'octet', target: device, tier: 'fp16' },
    'torch-fp8-weights': { kind: 'torch', way: 'fp8-weights' },
    'torch-torchao-compile': { kind: 'torch', way: 'torchao' },
    'torch-fp8-backbone': { kind: 'torch', way: 'fp8-backbone', article: true },
    'torch-fp8-lite': { kind: 'torch', way: 'fp8-lite', article: true },
    'octet-fp16-in-24gb': { kind: 'octet', target: device, tier: 'fp16', gigabytes: 24 },
    'start-fp8-cold': { kind: 'start', target: best, tier: 'fp8', cold: true },
  }
}
