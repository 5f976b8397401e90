// Replies to failed commands: internal errors, and errors of the request.
import { NonFiniteError } from '../pipeline/non-finite.ts'
import type { Command, Message } from './messages.ts'
import { AdapterError } from './package/adapters.ts'
import { BudgetError } from './package/memory-plan.ts'

/** Images of the requested size exceed the memory budget. */
export class TooLarge extends Error {
  override name = 'TooLarge' as const
}

type Failure = Extract<Message, { type: 'failed' | 'refused' }>

/** Classifies an error. Non-finite values with adapters or a ControlNet are attributed to their strength: a retry would fail again. */
export function failureOf(thrown: unknown, command: Command): Failure {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown))
  if (error instanceof TooLarge || error instanceof AdapterError) return { type: 'refused', message: error.message }
  if (error instanceof NonFiniteError && command.type === 'run') {
    const { loras, controls } = command.request
    const fields = [...(loras ? ['loras'] : []), ...(controls ? ['controls'] : [])].join(' and ')
    if (fields) return { type: 'refused', message: `${error.message} with these ${fields}; lower their scale` }
  }
  if (error instanceof BudgetError) return { type: 'failed', code: 'model_not_available', error }
  // Messages of onnxruntime's CPU and CUDA allocators, of C++ and of V8.
  if (/out of memory|failed to allocate|bad_alloc|array buffer allocation failed/i.test(error.message))
    return { type: 'failed', code: 'out_of_memory', error }
  return { type: 'failed', code: command.type === 'load' ? 'model_not_available' : 'internal', error }
}
