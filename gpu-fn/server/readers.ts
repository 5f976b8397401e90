// Counts the readers of each job. A job without readers for some time is abandoned: its caller has left or follows it on another process.
import { type Job, outcomeOf } from './job.ts'

type Watch = { readers: number; timer?: NodeJS.Timeout | undefined }

/** Calls `giveUp` once for each period of `unreadMs` in which a job has no reader. */
export function createReaders(unreadMs: number, giveUp: (job: Job) => void) {
  const watches = new Map<Job, Watch>()

  function startTimer(job: Job, watch: Watch): void {
    const onUnread = () => {
      watches.delete(job)
      if (!outcomeOf(job)) giveUp(job)
    }
    watch.timer = setTimeout(onUnread, unreadMs).unref()
  }

  return {
    /** Starts tracking a new job, which has no reader yet. */
    add(job: Job): void {
      const watch: Watch = { readers: 0 }
      watches.set(job, watch)
      startTimer(job, watch)
    },
    /** Adds a reader. The returned function removes it; calling it again has no effect. */
    attach(job: Job): () => void {
      const watch = watches.get(job) ?? { readers: 0 }
      watches.set(job, watch)
      watch.readers += 1
      clearTimeout(watch.timer)
      let attached = true
      return () => {
        if (!attached) return
        attached = false
        watch.readers -= 1
        if (watch.readers > 0) return
        if (outcomeOf(job)) watches.delete(job)
        else startTimer(job, watch)
      }
    },
  }
}
