import { test } from 'vitest'
import api from '../../../docs/api.md?raw'
import { ACCESS } from '../../../edge/routes/access.ts'

test('docs/api.md has every route', ({ expect }) => {
  const [, table] = /\n## Routes\n([\s\S]*?)\n## /.exec(api)!
  const cells = [...table!.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, cell]) => cell!.replaceAll('`', '').split(', '))
  const routes = Object.keys(ACCESS).map((route) => route.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}'))
  expect(cells.toSorted()).toEqual(routes.toSorted())
})
