// The scores as a table, and the images as an HTML page for comparison.
import { html } from 'hono/html'
import sharp from 'sharp'
import type { QualityPrompt } from './prompts.ts'
import { type JudgedImage, SAME_PSNR, type Score } from './score.ts'

export type Column = { score: Score; judged: readonly JudgedImage[] }

const formatPercent = (share: number) => (Number.isNaN(share) ? '–' : `${(100 * share).toFixed(1)} %`)
const formatDecimals = (value: number | null, digits: number) => value?.toFixed(digits) ?? '–'

const HEADINGS =
  'configuration,main sprite,if simple,seen clearly,background,counts,color,relation,word,natural,PSNR dB,SSIM,s an image,peak MB'.split(
    ',',
  )

const formatCells = ({ configuration, ...score }: Score) => [
  configuration.name,
  ...[score.sprite, score.simpleSprite, score.clear, score.background, score.count].map(formatPercent),
  ...[score.color, score.relation, score.word, score.natural].map(formatPercent),
  ...[score.psnr === SAME_PSNR ? 'same' : formatDecimals(score.psnr, 1), formatDecimals(score.ssim, 4)],
  ...[score.seconds.toFixed(2), score.peakMegabytes.toFixed(0)],
]

/** A Markdown table with one row per configuration and aligned columns. */
export function formatTable(scores: readonly Score[]): string {
  const rows = [HEADINGS, ...scores.map(formatCells)]
  const widths = HEADINGS.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  const formatLine = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  const [headings, ...body] = rows.map(formatLine)
  return [headings, formatLine(widths.map((width) => '-'.repeat(width))), ...body].join('\n')
}

const encodeWebp = async (file: string) =>
  `data:image/webp;base64,${(await sharp(file).webp({ quality: 85 }).toBuffer()).toString('base64')}`

const CRITERIA = ['sprite', 'clear', 'background', 'count', 'color', 'relation', 'word'] as const

function formatCaption(judged: JudgedImage): string {
  const { seen, psnr } = judged
  const sprites = Object.entries(seen.sprites).map(([name, often]) => `${often} ${name}`)
  const errors = CRITERIA.filter((criterion) => judged[criterion] === false)
  const ground = [...new Set(Object.values(seen.background))].join(' to ')
  const likeness = psnr === null ? '' : `, ${psnr.toFixed(1)} dB`
  const word = seen.word && `, the word ${seen.word}`
  return `${errors.length > 0 ? `✗ ${errors.join(', ')}: ` : '✓ '}${sprites.join(', ') || `perhaps ${seen.likeliest[0]}`} on ${ground}${word}${likeness}`
}

const STYLE =
  'body{font:14px system-ui;margin:2em}table{border-collapse:collapse}td,th{padding:4px;vertical-align:top;text-align:left}' +
  'img{width:256px;display:block}small{display:block;width:256px;color:#666}pre{overflow:auto}'

/** A self-contained page: the table, and the images of every configuration for the first `sample` prompts. */
export async function renderPage(prompts: readonly QualityPrompt[], columns: readonly Column[], sample: number) {
  const rows = await Promise.all(
    prompts.slice(0, sample).map(async ({ prompt }, i) => {
      const pictures = columns.map(
        async ({ judged }) =>
          html`<td><img alt="" src="${await encodeWebp(judged[i]!.file)}"><small>${formatCaption(judged[i]!)}</small></td>`,
      )
      return html`<tr><th>${prompt}</th>${await Promise.all(pictures)}</tr>`
    }),
  )
  const headings = columns.map(({ score }) => html`<th>${score.configuration.name}</th>`)
  return html`<!doctype html><meta charset="utf-8"><title>Quality of nano</title><style>${STYLE}</style>
<h1>Quality of nano</h1><pre>${formatTable(columns.map(({ score }) => score))}</pre>
<table><tr><th></th>${headings}</tr>${rows}</table>`
}
