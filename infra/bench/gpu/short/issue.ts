// Where an operator sends the figures of a GPU.
import { spawnSync } from 'node:child_process'
import { ROOT } from '../../../local/models/package-cache.ts'

/** The template's file name in .github/ISSUE_TEMPLATE. */
export const TEMPLATE = 'gpu-figures.md'

/** The address of a new issue with the template, for a remote of git on GitHub; null for another one. */
export function issueAddress(remote: string): string | null {
  const [, repository] =
    /^(?:https:\/\/|ssh:\/\/|git@)(?:[^@/]*@)?github\.com[/:]([\w.-]+\/[\w.-]+?)(?:\.git)?\/?$/.exec(remote) ?? []
  return repository ? `https://github.com/${repository}/issues/new?template=${TEMPLATE}` : null
}

/** Instructions for sending a report that is in `file`. */
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
