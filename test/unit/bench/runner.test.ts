/** The runner's turns and arithmetic, with peers that are only a list of answers. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { middle } from '../../bench/figures.js';
import type { Measurement, Row } from '../../bench/row.js';
import { type Contender, othersShare, REPEATS_MAX, runRow, type Turns } from '../../bench/runner.js';

const ROW: Row = {
  name: 'create',
  unit: '/s',
  better: 'higher',
  group: 'names',
  drop: 'nothing',
  run: async () => ({ value: 0, operations: 1 }),
};

const TURNS: Turns = {
  rounds: 3,
  othersMax: 0.1,
  countSystemCalls: false,
  load: () => () => 0,
  check: () => undefined,
};

interface Fake extends Contender {
  readonly measured: string[];
}

/** @param values its answers, one after the other. @param log gets its name for each run. */
function fakePeer(name: string, values: readonly number[], log: string[] = []): Fake {
  let at = 0;
  const measured: string[] = [];
  return {
    name,
    measured,
    cannot: () => undefined,
    ready: async () => void log.push(`${name} ready`),
    measure: async (): Promise<Measurement> => {
      log.push(name);
      const value = values[at++] ?? 0;
      return { value, operations: 10, cpuUs: { server: value, client: 20, application: 30 }, rpcs: 5 };
    },
  };
}

/** Loads of one run after the other. */
function loads(...shares: number[]): Turns['load'] {
  return () => {
    const share = shares.shift() ?? 0;
    return () => share;
  };
}

test('peers take turns, each made ready before each run, and the median of the rounds counts', async () => {
  const log: string[] = [];
  const peers = [fakePeer('a', [10, 30, 20], log), fakePeer('b', [1, 2, 9], log)];
  const { cells } = await runRow(ROW, peers, TURNS);
  const round = ['a ready', 'a', 'b ready', 'b'];
  assert.deepEqual(log, [...round, ...round, ...round]);
  const base = { repeated: 0, disturbed: 0, others: 0, rpcs: 0.5 };
  assert.deepEqual(cells, [
    { ...base, peer: 'a', values: [10, 30, 20], median: 20, cpuUs: { server: 2, client: 2, application: 3 } },
    { ...base, peer: 'b', values: [1, 2, 9], median: 2, cpuUs: { server: 0.2, client: 2, application: 3 } },
  ]);
});

test('the median of an even number of values is the upper one of the middle', () => {
  assert.deepEqual([middle([3, 1, 2]), middle([4, 1, 3, 2]), middle([7]), middle([])], [2, 3, 7, 0]);
});

test('a disturbed run does not count and is repeated', async () => {
  const peer = fakePeer('a', [10, 11, 12]);
  const { cells } = await runRow(ROW, [peer], { ...TURNS, rounds: 1, load: loads(0.5, 0.11, 0.1) });
  const [cell] = cells;
  assert.deepEqual([cell?.values, cell?.repeated, cell?.disturbed, cell?.others], [[12], 2, 0, 0.1]);
});

test('a run that stays disturbed counts after the last repeat, and the cell says so', async () => {
  const peer = fakePeer('a', [10, 11, 12, 13]);
  const { cells } = await runRow(ROW, [peer], { ...TURNS, rounds: 1, load: () => () => 0.4 });
  const [cell] = cells;
  assert.deepEqual(
    [cell?.values, cell?.repeated, cell?.disturbed, cell?.others],
    [[10 + REPEATS_MAX], REPEATS_MAX, 1, 0.4],
  );
});

test('a peer that fails has no further turns, and the others go on', async () => {
  const log: string[] = [];
  const broken: Contender = {
    ...fakePeer('broken', [], log),
    measure: async () => {
      throw new Error('the disk\nis full');
    },
  };
  const { cells } = await runRow(ROW, [broken, fakePeer('b', [1, 2, 3], log)], TURNS);
  assert.deepEqual(cells[0], {
    peer: 'broken',
    values: [],
    repeated: 0,
    disturbed: 0,
    failed: 'the disk is full',
  });
  assert.equal(cells[1]?.median, 2);
  assert.equal(log.filter((line) => line === 'broken ready').length, 1);
});

test('a row that a peer cannot run is skipped there, with the reason', async () => {
  const peer: Contender = { ...fakePeer('ext4', []), cannot: () => 'has no client' };
  const { cells } = await runRow(ROW, [peer], TURNS);
  assert.deepEqual(cells, [
    { peer: 'ext4', values: [], repeated: 0, disturbed: 0, skipped: 'has no client' },
  ]);
});

test('when the user ends the bench, a run that fails for it is no failure of the peer', async () => {
  let isEnded = false;
  const peer: Contender = {
    ...fakePeer('a', []),
    measure: async () => {
      isEnded = true;
      throw new Error('killed');
    },
  };
  const check = (): void => {
    if (isEnded) throw new Error('ended by SIGINT');
  };
  await assert.rejects(runRow(ROW, [peer], { ...TURNS, check }), /ended by SIGINT/);
});

test('system calls are counted in one run more, which gives no value', async () => {
  const calls = { server: 1, client: 2, application: 3 };
  const peer: Contender = { ...fakePeer('a', [1, 2, 3]), systemCalls: async () => calls };
  const { cells } = await runRow(ROW, [peer], { ...TURNS, countSystemCalls: true });
  assert.deepEqual([cells[0]?.values, cells[0]?.systemCalls], [[1, 2, 3], calls]);
});

test('what others took is what was busy without the bench and the kernel, as a part of all processors', () => {
  const load = {
    busyUs: 1_500_000,
    benchUs: 900_000,
    kernelUs: 200_000,
    elapsedUs: 1_000_000,
    processors: 2,
  };
  assert.equal(othersShare(load), 0.2);
  // The clocks differ: the bench seems to have used more than was used.
  assert.equal(othersShare({ ...load, benchUs: 1_600_000 }), 0);
  assert.equal(othersShare({ ...load, elapsedUs: 0 }), 0);
});
