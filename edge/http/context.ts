/** The types of every Hono app here. A file that sets a variable of the context declares it in Hono's ContextVariableMap. */
export type EdgeEnv = { Bindings: Env }

declare module 'hono' {
  interface ContextVariableMap {
    /** The body limit in bytes, set once the credential is checked. */
    bodyBytes?: number
    /** The length of the body that was read, without compression. */
    bodyLength?: number
  }
}
