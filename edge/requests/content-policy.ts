// Checks prompts against the content policy, before a price is reserved.
import type { ContentVerdict, JobSpec } from '../accounts/job-spec.ts'
import { configOf } from '../config.ts'
import { ApiError } from '../http/errors.ts'
import { log } from '../platform/log.ts'
import { containsPhrase, wordsOf } from '../platform/words.ts'
import { moderate } from './moderation.ts'

const FINAL = { 'x-should-retry': 'false' }
const ROLES = ['prompt', 'prompt_2', 'prompt_3'] as const

type CheckedSpec = Pick<JobSpec, 'account' | 'keyId' | 'request'>

function createViolationError(
  { account, keyId }: CheckedSpec,
  param: string,
  found: { by: string; categories?: string[] },
): ApiError {
  log('info', 'a request violates the content policy', { account, key: keyId, param, ...found })
  const message =
    'The prompt violates the content policy of this service. Nothing was charged; please change the prompt.'
  return new ApiError('content_policy_violation', message, { param, headers: FINAL })
}

function checkBlockList(checked: CheckedSpec, phrases: readonly string[]): void {
  for (const role of ROLES) {
    const words = wordsOf(checked.request[role] ?? '')
    if (phrases.some((phrase) => containsPhrase(words, phrase)))
      throw createViolationError(checked, role, { by: 'block_list' })
  }
}

async function checkModeration(env: Env, checked: CheckedSpec): Promise<ContentVerdict['moderation']> {
  const { contentPolicy, moderationKey } = configOf(env)
  const { moderation } = contentPolicy
  if (!moderation) return null
  const { account, keyId, request } = checked
  const input = ROLES.flatMap((role) => request[role] || []).join('\n\n')
  try {
    const flagged = await moderate(input, moderation, moderationKey)
    if (!flagged) return 'passed'
    throw createViolationError(checked, 'prompt', { by: 'moderation', ...flagged })
  } catch (thrown) {
    if (thrown instanceof ApiError) throw thrown
    const cause = thrown instanceof Error ? thrown.message : String(thrown)
    log('warn', 'a prompt could not be moderated', { account, key: keyId, on_error: moderation.on_error, cause })
    if (moderation.on_error === 'allow') return 'unavailable'
    const message = 'The moderation of the prompt is unavailable. Nothing was charged; please try again in a moment.'
    throw new ApiError('moderation_unavailable', message, { headers: { 'retry-after': '5' } })
  }
}

/**
 * Checks the prompts of a request, without the negative prompt, which keeps content out of the image. Returns the verdict; null without a
 * policy. Errors: content_policy_violation, moderation_unavailable.
 */
export async function checkContent(env: Env, checked: CheckedSpec): Promise<ContentVerdict | null> {
  const { block, moderation } = configOf(env).contentPolicy
  if (block.length === 0 && !moderation) return null
  checkBlockList(checked, block)
  return { block_list: block.length > 0 ? 'passed' : null, moderation: await checkModeration(env, checked) }
}
