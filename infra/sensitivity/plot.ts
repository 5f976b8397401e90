// SVG plot of error against size.
import type { Point } from './pareto.ts'

const [WIDTH, HEIGHT] = [720, 420]
const MARGIN = { left: 64, right: 24, top: 44, bottom: 52 }
const TICKS = 5

/** `chosen`: number of FP8 layers in tier fp8-int4. */
export type Plot = {
  readonly title: string
  readonly points: readonly Point[]
  readonly frontier: readonly Point[]
  readonly chosen: number
}

/** Draws all points as circles, the Pareto frontier as a line, and the chosen point filled and labeled. */
export function plotSvg({ title, points, frontier, chosen }: Plot): string {
  const x = createAxis(
    points.map(({ bytes }) => bytes / 1e6),
    [MARGIN.left, WIDTH - MARGIN.right],
  )
  const y = createAxis([0, ...points.map(({ error }) => error * 100)], [HEIGHT - MARGIN.bottom, MARGIN.top])
  const placeAt = ({ bytes, error }: Point) => [round(x.place(bytes / 1e6)), round(y.place(error * 100))] as const
  const line = frontier.toSorted((a, b) => a.bytes - b.bytes).map((point) => placeAt(point).join(','))
  const circles = points.map((point) => {
    const [cx, cy] = placeAt(point)
    const fill = point.kept === chosen ? BLUE : 'white'
    return `<circle cx="${cx}" cy="${cy}" r="4" fill="${fill}" stroke="${BLUE}"><title>${describe(point)}</title></circle>`
  })
  const marked = points.find(({ kept }) => kept === chosen)!
  const [labelX, labelY] = placeAt(marked)
  const side = labelX < WIDTH / 2 ? 1 : -1
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">`,
    `<title>${title}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    drawText(WIDTH / 2, 24, title, 'middle', ' font-size="15"'),
    ...x.ticks.map((value) => drawVerticalGrid(round(x.place(value)), String(value))),
    ...y.ticks.map((value) => drawHorizontalGrid(round(y.place(value)), String(value))),
    drawText(WIDTH / 2, HEIGHT - 12, 'weights of the step graph, MB', 'middle'),
    `<g transform="rotate(-90 18 ${HEIGHT / 2})">${drawText(18, HEIGHT / 2, 'relative error of the velocity, %', 'middle')}</g>`,
    `<polyline points="${line.join(' ')}" fill="none" stroke="${BLUE}"/>`,
    ...circles,
    drawText(labelX + side * 10, labelY - 8, describe(marked), side > 0 ? 'start' : 'end', ' font-weight="bold"'),
    '</svg>\n',
  ].join('\n')
}

const BLUE = '#3346c4'
const round = (value: number) => Math.round(value * 10) / 10
const describe = ({ kept, bytes, error }: Point) =>
  `${kept} in FP8: ${(bytes / 1e6).toFixed(1)} MB, ${(error * 100).toFixed(2)} %`

const drawText = (x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end', more = '') =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}"${more}>${content}</text>`
const drawVerticalGrid = (x: number, label: string) =>
  `<path d="M${x} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}" stroke="#ddd"/>${drawText(x, HEIGHT - MARGIN.bottom + 18, label, 'middle')}`
const drawHorizontalGrid = (y: number, label: string) =>
  `<path d="M${MARGIN.left} ${y}H${WIDTH - MARGIN.right}" stroke="#ddd"/>${drawText(MARGIN.left - 8, y + 4, label, 'end')}`

/** Ticks at round numbers that span the values, and the mapping from values to the pixel range [from, to]. */
function createAxis(values: readonly number[], [from, to]: readonly [number, number]) {
  const [min, max] = [Math.min(...values), Math.max(...values)]
  const step = roundStep((max - min || 1) / TICKS)
  const [first, last] = [Math.floor(min / step), Math.ceil(max / step)]
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)))
  const place = (value: number) => from + ((value - first * step) / ((last - first) * step || 1)) * (to - from)
  return { ticks, place }
}

/** Rounds a step up to 1, 2 or 5 times a power of ten. */
function roundStep(step: number): number {
  const power = 10 ** Math.floor(Math.log10(step))
  return [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= step * (1 - 1e-9))!
}
