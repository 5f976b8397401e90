// The request of a run as code. The code reads the key from the environment.
import type { Run } from '../state/history.ts'
import { linkTo } from '../state/link.ts'

export type Language = 'curl' | 'python' | 'javascript' | 'replicate' | 'link'

/** The fields of a request with the model and the seed that ran. */
function fieldsOf({ fields: { route, output_format, n, image, mask, ...fields }, decision }: Run) {
  return {
    ...(decision && { model: decision.model }),
    ...fields,
    // Addresses replace the files, which are too long for an example.
    ...(image && { image: 'https://…' }),
    ...(mask && { mask: 'https://…' }),
    ...(n > 1 && { n }),
    ...(output_format !== 'png' && { output_format }),
    ...(route && { route }),
  }
}

const formatJson = (value: unknown) => JSON.stringify(value, null, 2)
const indent = (text: string, spaces: number) => text.replaceAll('\n', `\n${' '.repeat(spaces)}`)
const quoteForShell = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`
/** Members of an object literal of JavaScript, without quotes around names. */
const formatMembers = (value: object, spaces: number) =>
  Object.entries(value)
    .map(([name, each]) => `${' '.repeat(spaces)}${name}: ${JSON.stringify(each)},`)
    .join('\n')

function writeCurl(run: Run): string {
  return `curl -s ${location.origin}/v1/images/generations \\
  -H "authorization: Bearer $OCTET_KEY" \\
  -H 'content-type: application/json' \\
  -d ${quoteForShell(formatJson(fieldsOf(run)))}`
}

/** Fields of OpenAI's own client. It passes others in `extra_body`. */
const OPENAI_FIELDS = new Set(['model', 'prompt', 'size', 'n', 'output_format'])

function writePython(run: Run): string {
  const entries = Object.entries(fieldsOf(run))
  const own = entries.filter(([name]) => OPENAI_FIELDS.has(name))
  const extra = Object.fromEntries(entries.filter(([name]) => !OPENAI_FIELDS.has(name)))
  return `import os
from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["OCTET_KEY"])
result = client.images.generate(
${own.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`).join('\n')}
    extra_body=${indent(formatJson(extra), 4)},
)
print(result.data[0].url)`
}

function writeJavaScript(run: Run): string {
  return `import OpenAI from 'openai'

const client = new OpenAI({ baseURL: '${location.origin}/v1', apiKey: process.env.OCTET_KEY })
const { data } = await client.images.generate({
${formatMembers(fieldsOf(run), 2)}
})
console.log(data[0].url)`
}

function writeReplicate(run: Run): string {
  const { model, ...input } = { model: 'auto', ...fieldsOf(run) }
  return `import Replicate from 'replicate'

const replicate = new Replicate({ baseUrl: '${location.origin}/v1', auth: process.env.OCTET_KEY })
const [image] = await replicate.run('octet/${model}', {
  input: {
${formatMembers(input, 4)}
  },
})
console.log(image.url())`
}

export const SNIPPETS: Record<Language, (run: Run) => string> = {
  curl: writeCurl,
  python: writePython,
  javascript: writeJavaScript,
  replicate: writeReplicate,
  link: ({ fields }) => linkTo(fields),
}
