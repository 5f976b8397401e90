// The issue tracker for reports about GPUs.
import { spawnSync } from 'node:child_process'
import { ROOT } from '../../../local/models/package-cache.ts'

/** File in .github/ISSUE_TEMPLATE. */
export const TEMPLATE = 'gpu-figures.md'

/** URL of a new issue with the template, for a git remote on GitHub; null for other remotes. */
export function issueAddress(remote: string): string | null {
  const [, repository] =
    /^(?:https:\/\/|ssh:\/\/|git@)(?:[^@/]*@)?github\.com[/:]([\w.-]+\/[\w.-]+?)(?:\.git)?\/?$/.exec(remote) ?? []
  return repository ? `https://github.com/${repository}/issues/new?template=${TEMPLATE}` : null
}

/** Instructions for submitting the report in `file`. */
export function describeSending(file: string, remote = originOfCheckout()): string {
  const address = issueAddress(remote)
  const place =
    address ?? `the issue tracker of the repository from which this checkout was cloned, template ${TEMPLATE}`
  return `The report is in ${file}\nTo have this GPU listed as measured, open an issue with its text: ${place}`
}

function originOfCheckout(): string {
  const { stdout } = spawnSync('git', ['config', '--get', 'remote.origin.url'], { encoding: 'utf8', cwd: ROOT })
  return stdout?.trim() ?? ''
}
