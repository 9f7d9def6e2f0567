import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../src/base/errno.js';
import type { Fh, Fid, LockHandle } from '../../src/base/ids.js';
import { AppLocks } from '../../src/client/app_locks.js';
import { FidPool } from '../../src/client/fid_pool.js';
import type { FlockRangeMessage } from '../../src/wire/lock.js';

const FILE = 17 as Fid;
const FH = 3 as Fh;

function range(
  start: number,
  end: number | undefined,
  more: Partial<FlockRangeMessage> = {},
): FlockRangeMessage {
  return { kind: 'posix', owner: 'aa', pid: 1, exclusive: true, start, end, ...more };
}

function held(locks: AppLocks): (readonly [number, number | undefined, boolean, string, number])[] {
  return [...locks.granted()]
    .map(
      ({ range: { start, end, exclusive, owner }, sequence }) =>
        [start, end, exclusive, owner, sequence] as const,
    )
    .sort((a, b) => a[0] - b[0]);
}

test('app locks: unlocking the middle leaves both ends, with the order number they had', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, undefined), 7, FH);
  locks.release(FILE, range(10, 20));
  assert.deepEqual(held(locks), [
    [0, 10, true, 'aa', 7],
    [20, undefined, true, 'aa', 7],
  ]);
});

test('app locks: a new lock of an owner replaces its part of the old one; other owners and kinds stay', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, 100), 1, FH);
  locks.grant(FILE, range(200, 300, { owner: 'bb' }), 2, FH);
  locks.grant(FILE, range(50, 250, { exclusive: false }), 3, FH);
  locks.release(FILE, range(0, undefined, { kind: 'ofd' }));
  assert.deepEqual(held(locks), [
    [0, 50, true, 'aa', 1],
    [50, 250, false, 'aa', 3],
    [200, 300, true, 'bb', 2],
  ]);
  assert.deepEqual([locks.kindsOf(FILE, 'aa'), locks.kindsOf(FILE, 'cc'), locks.size], [['posix'], [], 3]);
});

test('app locks: one of thousands is set and unlocked without a look at all of them', () => {
  const locks = new AppLocks();
  let looks = 0;
  const counted = (start: number): FlockRangeMessage => ({
    ...range(start, start + 1),
    get end() {
      looks += 1;
      return start + 1;
    },
  });
  const COUNT = 4096;
  // Neither in order nor at one end.
  const starts = Array.from({ length: COUNT }, (_, at) => ((at * 1031) % COUNT) * 2);
  for (const [at, start] of starts.entries()) locks.grant(FILE, counted(start), at, FH);
  assert.equal(locks.size, COUNT);
  for (const start of starts) locks.release(FILE, range(start, start + 1));
  assert.deepEqual([locks.size, looks < 64 * COUNT], [0, true], `${looks} looks`);
});

test('app locks: what a request under way gives up is not there for another instance', () => {
  const locks = new AppLocks();
  locks.grant(FILE, range(0, 100), 1, FH);
  locks.grant(FILE, range(200, 300), 2, FH);
  locks.grant(FILE, range(0, undefined, { kind: 'flock', owner: 'bb' }), 3, FH);
  locks.begin({ fid: FILE, range: range(0, 50), to: 'none' });
  locks.begin({ fid: FILE, range: range(80, 250, { exclusive: false }), to: 'shared' });
  locks.begin({ fid: FILE, range: range(260, 270), to: 'exclusive' });
  locks.begin({ fid: FILE, range: range(0, undefined, { kind: 'flock', owner: 'bb' }), to: 'exclusive' });
  const answered = locks.begin({ fid: FILE, range: range(0, undefined), to: 'none' });
  answered();
  locks.newInstance();
  assert.deepEqual(held(locks), [
    [50, 80, true, 'aa', 1],
    [80, 100, false, 'aa', 1],
    [200, 250, false, 'aa', 2],
    [250, 300, true, 'aa', 2],
  ]);
});

test('app locks: an eviction ends every wait with its error, and nothing is left to replay', () => {
  const locks = new AppLocks();
  const failed: string[] = [];
  locks.grant(FILE, range(0, 1), 1, FH);
  locks.wait({
    fid: FILE,
    range: range(0, 1, { owner: 'bb' }),
    handle: 5 as LockHandle,
    sequence: 2,
    fh: FH,
    granted: () => assert.fail('granted'),
    failed: (error) => failed.push(error.code),
  });
  locks.clear(new FsError('EIO'));
  assert.deepEqual([failed, locks.size, locks.stopWaiting(5 as LockHandle)], [['EIO'], 0, undefined]);
});

test('FIDs: each is given once, the next range is asked for once and before the last runs out', async () => {
  let asked = 0;
  const pool = new FidPool(async () => {
    asked += 1;
    return { start: (asked * 1000) as Fid, end: (asked * 1000 + 300) as Fid };
  });
  const given = new Set<Fid>();
  for (let i = 0; i < 700; i += 1) given.add(await pool.take());
  assert.deepEqual([given.size, asked], [700, 4]);
});
