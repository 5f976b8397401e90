// Stub of the MCP server's JSON Schema validator (`alias` in wrangler.toml), a ninth of the bundle's MCP code. The validator is only for replies
// to elicitations, and these tools send none.
export class DefaultJsonSchemaValidator {
  getValidator(): never {
    throw new Error('elicitation is not supported')
  }
}
