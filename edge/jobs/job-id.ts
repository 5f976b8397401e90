export const JOB_ID = /^job_[0-9a-f]{32}$/
/** 128 random bits, so that ids never collide, even between deployments that share a GPU function. */
export const newJobId = () => `job_${crypto.getRandomValues(new Uint8Array(16)).toHex()}`
