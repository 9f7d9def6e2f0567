import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import { barsSvg, speeds } from '../../bench/bars.js';
import { measured } from '../../bench/figures.js';
import { pageOf } from '../../bench/markdown.js';
import { TABLES } from '../../bench/options.js';
import type { Cell, RowResult } from '../../bench/row.js';
import { withPart } from '../../fixtures/generated_page.js';

function cell(peer: string, median: number, more: Partial<Cell> = {}): Cell {
  const cpuUs = { server: 1, client: 2, application: 3 };
  return { peer, values: [median], median, cpuUs, repeated: 0, disturbed: 0, ...more };
}

const RATE: RowResult = {
  row: 'unlink',
  unit: '/s',
  better: 'higher',
  group: 'names',
  cells: [cell('ext4', 400), cell('holdfast', 100, { rpcs: 1, disturbed: 1 })],
};
const TIME: RowResult = { ...RATE, row: 'git <clone>', unit: 's', better: 'lower', group: 'programs' };
const PEERS = ['ext4', 'holdfast'];

test('a bar is as long as its peer is fast, beside the fastest', () => {
  assert.deepEqual(
    [speeds(RATE, PEERS), speeds(TIME, PEERS)],
    [
      [1, 0.25],
      [0.25, 1],
    ],
  );
  assert.deepEqual(speeds(RATE, ['ext4', 'sshfs']), [1, undefined]);
});

test('the picture has a bar for each measured value, and no markup of a name in it', () => {
  const svg = barsSvg('bench', [TIME, { ...RATE, cells: [] }], PEERS);
  const bars = svg.match(/<rect [^>]*width="(?!9")/g) ?? [];
  assert.equal(bars.length, 2);
  assert.ok(svg.includes('git &lt;clone>') && svg.includes('>400 s<') && !svg.includes('unlink'));
});

test('a page has a table of each group with its picture, costs, figures, and what was not measured', () => {
  const figures = [
    { name: 'mount', unit: 'ms', holdfast: 200, goal: '< 500 ms', met: true },
    measured('write', 'times', 1.5, 'no goal'),
  ];
  const { part, pictures } = pageOf('main', 'Two processors', {
    results: [RATE, TIME],
    figures,
    ran: new Map(),
    peers: PEERS,
    missing: ['sshfs: not installed: apt-get install sshfs'],
  });
  assert.deepEqual([...pictures.keys()], ['main-names.svg', 'main-programs.svg']);
  assert.equal(
    part,
    `Two processors.

### Names

![bars: longer is faster](measured/main-names.svg)

| row | unit | ext4 | holdfast | to ext4 | goals |
|---|---|---|---|---|---|
| unlink | /s | 400 | 100* | 0.25 |  |

### Programs

![bars: longer is faster](measured/main-programs.svg)

| row | unit | ext4 | holdfast | to ext4 | goals |
|---|---|---|---|---|---|
| git <clone> | s | 400 | 100* | 0.25 |  |

### Processor time

Server + client + application, without the threads of the kernel.

| processor time of an operation, us | ext4 | holdfast | RPCs of holdfast |
|---|---|---|---|
| unlink | 1.00 + 2.00 + 3.00 | 1.00 + 2.00 + 3.00 | 1.00 |
| git <clone> | 1.00 + 2.00 + 3.00 | 1.00 + 2.00 + 3.00 | 1.00 |

| what | Holdfast | goal | with |
|---|---|---|---|
| mount | 200 ms | met < 500 ms |  |
| write | 1.50 times |  | no goal |

- sshfs: not installed: apt-get install sshfs
- \\*: other processes took processors in a round that counts
`,
  );
});

test('the page has a part for each table', () => {
  const text = readFileSync(join(packageRoot(), 'docs', 'MEASURED.md'), 'utf8');
  for (const table of TABLES)
    assert.ok(withPart('MEASURED.md', text, table, 'new part').includes('new part'));
});

test('a part of a page is replaced between its marks, and nothing else', () => {
  const page = 'before\n<!-- main -->\nold\n<!-- /main -->\nafter\n';
  assert.equal(withPart('PAGE.md', page, 'main', 'new\n'), page.replace('old', 'new'));
  assert.throws(() => withPart('PAGE.md', page, 'growth', 'new\n'), /has no part "growth"/);
});
