import { expect, test } from 'vitest'
import { chooseTarget } from '../../../infra/local/hardware.ts'

const gpu = (name: string, capability: number) => ({ name, capability, bytes: 80e9 })

test.each([
  [[gpu('NVIDIA H100', 9)], 'cuda-fp8'],
  [[gpu('NVIDIA L4', 8.9), gpu('NVIDIA H100', 9)], 'cuda-fp8'],
  [[gpu('NVIDIA A100', 8), gpu('NVIDIA H100', 9)], 'cuda'],
  [[gpu('NVIDIA T4', 7.5)], 'cpu'],
  [[], 'cpu'],
])('%j serve with the target %s', (gpus, target) => {
  expect(chooseTarget(gpus).target).toBe(target)
})

test('a target has a reason', () => {
  expect(chooseTarget([gpu('NVIDIA T4', 7.5)]).reason).toBe(
    'NVIDIA T4 has compute capability 7.5; the CUDA targets need 8.0',
  )
})
