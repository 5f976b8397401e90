import { useCallback, useEffect, useState } from 'preact/hooks'
import { call, isProblem, Problem } from '../api/http.ts'
import { credential } from '../api/session.ts'

export type Resource<T> = { data: T | null; problem: Problem | null; reload: () => void }

/** Loads a path of the API, again whenever the path or the credential changes. Null loads nothing. */
export function useResource<T>(path: string | null): Resource<T> {
  const [state, setState] = useState<Omit<Resource<T>, 'reload'>>({ data: null, problem: null })
  const [count, setCount] = useState(0)
  const bearer = credential.value?.value
  useEffect(() => {
    if (path === null) return
    const abort = new AbortController()
    call<T>('GET', path, undefined, { signal: abort.signal }).then(
      (data) => setState({ data, problem: null }),
      (problem: unknown) => isProblem(problem) && setState({ data: null, problem }),
    )
    return () => abort.abort()
  }, [path, count, bearer])
  const reload = useCallback(() => setCount((each) => each + 1), [])
  return { ...state, reload }
}

/** The state of an action: its problem, and a function that runs it and reports whether it succeeded. */
export function useAction() {
  const [problem, setProblem] = useState<Problem | null>(null)
  const run = async (action: () => Promise<unknown>): Promise<boolean> => {
    try {
      await action()
      setProblem(null)
      return true
    } catch (error) {
      setProblem(isProblem(error) ? error : new Problem(String(error)))
      return false
    }
  }
  return { problem, run }
}
