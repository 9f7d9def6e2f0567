import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import { type BenchOptions, benchCommand, PEERS } from '../../bench/options.js';

async function parse(...args: string[]): Promise<BenchOptions> {
  let parsed: BenchOptions | undefined;
  await benchCommand(async (options) => {
    parsed = options;
  }).parseAsync(['node', 'bench', ...args]);
  assert.ok(parsed !== undefined);
  return parsed;
}

test('without options all peers run three rounds of the main table', async () => {
  assert.deepEqual(await parse(), {
    peer: [...PEERS],
    rounds: 3,
    table: 'main',
    others: 10,
    size: 512,
    device: 5,
    files: 200_000,
    stream: 8,
    growthMax: 1_000_000,
  });
});

test('peers are named by commas; Holdfast needs not be', async () => {
  const { peer, rounds, filter, json } = await parse(
    ...['--peer', 'ext4, holdfast,sshfs', '--rounds', '5', '--filter', 'stat', '--json', '-'],
  );
  assert.deepEqual(
    { peer, rounds, filter, json },
    { peer: ['ext4', 'sshfs'], rounds: 5, filter: 'stat', json: '-' },
  );
});

/** The bench as a user calls it. */
function bench(...args: string[]): {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
} {
  const script = join(packageRoot(), 'dist', 'test', 'bench', 'run.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });
  return { status, stdout, stderr };
}

test('a command line that makes no sense is said in one line with a hint, and ends with status 2', () => {
  const hint = '(run with --help for the usage)\n';
  const wrong: readonly (readonly [readonly string[], string])[] = [
    [
      ['--peer', 'ext5'],
      `bench: option '--peer <names>' argument 'ext5' is invalid. There is no peer "ext5"; there are ${PEERS.join(', ')}.\n${hint}`,
    ],
    [
      ['--rounds', '0'],
      `bench: option '--rounds <n>' argument '0' is invalid. Give a whole number from 1 on.\n${hint}`,
    ],
    [
      ['--table', 'side'],
      `bench: option '--table <table>' argument 'side' is invalid. Allowed choices are main, growth, pauses, flood, trust.\n${hint}`,
    ],
    [['--filter', 'no such row'], 'bench: no row has "no such row" in its name\n'],
  ];
  for (const [args, stderr] of wrong) assert.deepEqual(bench(...args), { status: 2, stdout: '', stderr });
});

test('--help names every option and ends with status 0', () => {
  const { status, stdout, stderr } = bench('--help');
  assert.deepEqual([status, stderr], [0, '']);
  const options: readonly string[] = stdout.match(/--[a-z-]+(?= |<|\n)/g) ?? [];
  for (const option of ['--peer', '--filter', '--rounds', '--json', '--table', '--markdown', '--install'])
    assert.ok(options.includes(option), option);
});
