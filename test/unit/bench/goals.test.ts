import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cannotRun } from '../../bench/contender.js';
import { GOALS, ratioTo, verdictsOf } from '../../bench/goals.js';
import { MAIN_ROWS } from '../../bench/main_table.js';
import { notInstalled, type Peer } from '../../bench/peer.js';
import { countsOf } from '../../bench/perf.js';
import type { Cell, Row, RowResult } from '../../bench/row.js';
import { passes } from '../../bench/run.js';
import { aligned, cellText, formatNumber, goalsText, reasons } from '../../bench/tables.js';

function cell(peer: string, median: number, more: Partial<Cell> = {}): Cell {
  return { peer, values: [median], median, repeated: 0, disturbed: 0, ...more };
}

function result(better: Row['better'], ...cells: Cell[]): RowResult {
  return { row: 'r', unit: better === 'higher' ? '/s' : 'ms', better, group: 'names', cells };
}

test('a goal by ratio is the least where higher is better, and the most where lower is', () => {
  const goals = [{ row: 'r', than: 'ext4', ratio: 0.5 }] as const;
  const met = (better: Row['better'], ours: number): boolean | undefined =>
    verdictsOf(result(better, cell('ext4', 100), cell('holdfast', ours)), goals)[0]?.met;
  assert.deepEqual(
    [met('higher', 50), met('higher', 49), met('lower', 50), met('lower', 51)],
    [true, false, true, false],
  );
});

test('a goal by limit needs no other peer; a goal without its peer is neither met nor missed', () => {
  const goals = [
    { row: 'r', limit: 3 },
    { row: 'r', than: 'passthrough', ratio: 1 },
    { row: 'another row', limit: 0 },
  ] as const;
  const verdicts = verdictsOf(result('lower', cell('holdfast', 2.5)), goals);
  assert.deepEqual(
    verdicts.map(({ text, met }) => [text, met]),
    [
      ['<= 3 ms', true],
      ['<= 1 passthrough', undefined],
    ],
  );
});

test('a ratio needs both sides, and no side of 0', () => {
  assert.equal(ratioTo(result('higher', cell('ext4', 4), cell('holdfast', 3)), 'ext4'), 0.75);
  assert.equal(ratioTo(result('higher', cell('ext4', 0), cell('holdfast', 3)), 'ext4'), undefined);
  assert.equal(ratioTo(result('higher', cell('holdfast', 3)), 'ext4'), undefined);
});

test('each goal is about a row of the main table, and rows have names of their own', () => {
  const names = MAIN_ROWS.map(({ name }) => name);
  assert.deepEqual(
    GOALS.filter(({ row }) => !names.includes(row)),
    [],
  );
  assert.equal(new Set(names).size, names.length);
});

test('the exit status looks at goals that gate and at failures of Holdfast only', () => {
  const row = 'create 1 KiB, one process';
  const create = (ours: number, theirs: number): RowResult => ({
    ...result('higher', cell('passthrough', theirs), cell('holdfast', ours)),
    row,
  });
  const failing = (peer: string): RowResult => result('higher', { ...cell(peer, 1), failed: 'EIO' });
  const judge = (...results: RowResult[]): boolean => passes({ results, figures: [] });
  // 1.5 of passthrough is a goal that does not gate.
  assert.deepEqual([judge(create(2500, 9000)), judge(create(1999, 1))], [true, false]);
  assert.deepEqual([judge(failing('sshfs')), judge(failing('holdfast'))], [true, false]);
  const figure = { name: 'mount', unit: 'ms', holdfast: 600, goal: '< 500 ms', met: false };
  assert.equal(passes({ results: [], figures: [figure] }), false);
});

test('cells show why they have no number, and mark disturbed rounds', () => {
  assert.deepEqual(
    [
      cellText(undefined),
      cellText(cell('a', 12_345.6)),
      cellText(cell('a', 0.5, { disturbed: 1 })),
      cellText({ peer: 'a', values: [], repeated: 0, disturbed: 0, skipped: 'has no client' }),
      cellText({ peer: 'a', values: [], repeated: 0, disturbed: 0, failed: 'EIO' }),
    ],
    ['', '12,346', '0.500*', '-', 'failed'],
  );
  assert.deepEqual([1, 9.999, 10, 99.94, 100].map(formatNumber), ['1.00', '10.00', '10.0', '99.9', '100']);
});

test('reasons for empty cells stand once, with their rows', () => {
  const skipped = { peer: 'ext4', values: [], repeated: 0, disturbed: 0, skipped: 'has no client' };
  const results = ['one', 'two'].map((row) => ({ ...result('higher', skipped), row }));
  assert.deepEqual(reasons(results), ['ext4: has no client (one; two)']);
});

test('goals that are not measured stay out of the table', () => {
  const shown = {
    ...result('lower', cell('holdfast', 2)),
    row: 'creates in turn on two mounts, p50',
    unit: 'ms',
  };
  assert.equal(goalsText(shown), 'met <= 3 ms');
});

test('columns are as wide as their widest text', () => {
  assert.deepEqual(aligned(['row', 'n', 'goal'], [['x', '1,000', 'met']]), [
    'row      n  goal',
    'x    1,000  met',
  ]);
});

const PEER: Peer = {
  name: 'fake',
  commands: ['sh'],
  packages: ['one', 'two'],
  secondMount: 'none',
  hasClient: false,
  start: () => Promise.reject(new Error('is never started')),
};

test('a peer without its commands is named with the packages to install', () => {
  assert.equal(notInstalled(PEER), undefined);
  assert.equal(
    notInstalled({ ...PEER, commands: ['sh', 'no-such-command'] }),
    'not installed: apt-get install one two',
  );
});

test('a row runs where the peer has the client, the mounts and the program for it', () => {
  const row: Row = {
    name: 'r',
    unit: '/s',
    better: 'higher',
    group: 'names',
    drop: 'client',
    mounts: 2,
    needs: { command: 'no-such-command', debian: 'package' },
    run: async () => ({ value: 1, operations: 1 }),
  };
  assert.deepEqual(
    [
      cannotRun(row, PEER),
      cannotRun(row, { ...PEER, hasClient: true }),
      cannotRun(row, { ...PEER, hasClient: true, secondMount: 'client' }),
    ],
    ['has no client', 'mounts share nothing', 'not installed: apt-get install package'],
  );
});

test("perf's counts are those of the groups that were asked for; a group in which nothing ran has 0", () => {
  const csv =
    '301,,raw_syscalls:sys_enter,b/app,1,100.00,,\n<not counted>,,raw_syscalls:sys_enter,b/server,0,100.00,,\n';
  assert.deepEqual(countsOf(csv, ['b/server', 'b/app']), [0, 301]);
  assert.throws(() => countsOf(csv, ['b/client']), /has not counted b\/client/);
});
