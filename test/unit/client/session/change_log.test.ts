import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import type { Fid, LockHandle, Name, Transno, Xid } from '../../../../src/base/ids.js';
import { Deferred } from '../../../../src/base/wait.js';
import { type Change, ChangeLog, nameKey } from '../../../../src/client/session/change_log.js';
import type { CachedLock } from '../../../../src/dlm/api.js';
import type { Answer, CallOptions } from '../../../../src/rpc/api.js';
import { BATCH_MAX, type Batch } from '../../../../src/wire/batch.js';
import type { GrantMessage } from '../../../../src/wire/lock.js';
import type { ReplyOf, RequestOf } from '../../../../src/wire/operation.js';
import { ManualTime } from '../../../worlds/dlm_world.js';

type Reply = ReplyOf<typeof Batch>;

const DIRECTORY = 1 as Fid;
const NOTHING: Reply = { locks: [], grantBytes: 0, positions: [], directories: [] };

function answerOf(reply: Partial<Reply>): Answer<Reply> {
  return {
    reply: { ...NOTHING, ...reply },
    bulk: Buffer.alloc(0),
    transno: 1 as Transno,
    lastCommitted: 0 as Transno,
    xid: 1 as Xid,
  };
}

/** A log whose target answers when the test says so. */
function changeLog(grantBytes = 1 << 20) {
  const sent: {
    readonly request: RequestOf<typeof Batch>;
    readonly options: CallOptions<Reply>;
    readonly answered: Deferred<Answer<Reply>>;
  }[] = [];
  const time = new ManualTime();
  const log = new ChangeLog({ timers: time, clock: time }, (request, options) => {
    const answered = new Deferred<Answer<Reply>>();
    sent.push({ request, options, answered });
    return answered.promise;
  });
  const granted: string[] = [];
  const writing = new Set<Fid>();
  log.host = {
    contentOf: () => undefined,
    isOpenToWrite: (fid) => writing.has(fid),
    granted: (lock, handle) => granted.push(`${lock.fid} ${lock.mode} ${handle}`),
    refused: (lock) => granted.push(`${lock.fid} ${lock.mode} refused`),
  };
  log.promised(grantBytes);
  /** Answers the oldest BATCH without an answer. */
  const answer = async (reply: Partial<Reply> = {}): Promise<void> => {
    const oldest = sent.shift();
    assert.ok(oldest !== undefined, 'something is under way');
    const whole = answerOf(reply);
    oldest.options.apply?.(whole);
    oldest.answered.resolve(whole);
    await new Promise((resolve) => setImmediate(resolve));
    log.checkInvariants();
  };
  return { log, time, sent, granted, writing, answer };
}

const lockOn = (fid: number, mode: 'PR' | 'PW'): CachedLock => {
  const type = mode === 'PW' ? 'data' : 'inode';
  return {
    handle: 0 as LockHandle,
    type,
    fid: fid as Fid,
    mode,
    bits: mode === 'PW' ? 0 : 2,
    cancelling: false,
  };
};

function change(fid: number, costBytes = 2048): Change {
  const name = `n${fid}` as Name;
  return {
    operation: { setattr: { fid: fid as Fid, mode: fid, time: { sec: fid, nsec: 0 } } },
    touches: [DIRECTORY, fid as Fid],
    names: [nameKey(DIRECTORY, name)],
    costBytes,
  };
}

const modes = ({ operations }: RequestOf<typeof Batch>): (number | undefined)[] =>
  operations.map(({ setattr }) => setattr?.mode);

test('changes leave together a moment after the first, and again as soon as that is answered', async () => {
  const { log, time, sent, answer } = changeLog();
  log.add(change(10));
  log.add(change(11));
  assert.equal(sent.length, 0);
  time.advance(3);
  assert.deepEqual(
    sent.map(({ request }) => modes(request)),
    [[10, 11]],
  );
  log.add(change(12));
  time.advance(50);
  assert.equal(sent.length, 1, 'one is under way');
  await answer();
  time.advance(3);
  assert.deepEqual(
    sent.map(({ request }) => modes(request)),
    [[12]],
  );
  assert.deepEqual(
    [log.touches(DIRECTORY), log.touches(10 as Fid), log.touches(12 as Fid)],
    [true, false, true],
  );
  assert.equal(log.changesName(DIRECTORY, 'n12'), true);
  await answer();
  assert.deepEqual([log.size, log.touches(DIRECTORY), log.usedBytes], [0, false, 0]);
});

test('the log waits a little for the content of a file that a program has just made, and not for ever', () => {
  const { log, time, sent, writing } = changeLog();
  const born = (fid: number): Change => ({ ...change(fid), born: { fid: fid as Fid, locks: [] } });
  writing.add(10 as Fid);
  log.add(born(10));
  time.advance(5);
  assert.equal(sent.length, 0);
  writing.delete(10 as Fid);
  time.advance(1);
  assert.equal(sent.length, 1);
  const slow = changeLog();
  slow.writing.add(10 as Fid);
  slow.log.add(born(10));
  slow.time.advance(9);
  assert.equal(slow.sent.length, 1);
});

test('changes of attributes of one inode, one right behind the other, go as one', () => {
  const { log, sent } = changeLog();
  const set = (fid: number, sec: number, wanted: object): void =>
    log.add({
      operation: { setattr: { fid: fid as Fid, time: { sec, nsec: 0 }, ...wanted } },
      touches: [fid as Fid],
      names: [],
      costBytes: 2048,
    });
  const at = (sec: number) => ({ sec, nsec: 0 });
  set(10, 1, { mtimeNow: true, atime: at(7) });
  set(10, 2, { uid: 5, gid: 6 });
  set(10, 3, { mode: 0o600, atimeNow: true });
  set(11, 4, { mode: 1 });
  set(10, 5, { mode: 0o644 });
  set(10, 6, { killSuidgid: true });
  log.push();
  const [first, ...rest] = sent[0]?.request.operations.map(({ setattr }) => setattr) ?? [];
  assert.deepEqual(
    [first?.mtime, first?.atime, first?.mtimeNow, first?.atimeNow, first?.uid, first?.mode, first?.time],
    [at(1), undefined, undefined, true, 5, 0o600, at(3)],
  );
  assert.deepEqual(
    rest.map((one) => [one?.fid, one?.mode, one?.killSuidgid]),
    [
      [11, 1, undefined],
      [10, 0o644, undefined],
      [10, undefined, true],
    ],
  );
});

test('push() sends all that waits in this turn, in order, and no message is too long', () => {
  const { log, sent } = changeLog();
  for (let fid = 10; fid < 10 + 63; fid += 1) log.add(change(fid));
  assert.equal(sent.length, 0);
  for (let fid = 100; fid < 100 + 300; fid += 1) log.add(change(fid));
  log.push();
  const all = sent.flatMap(({ request }) => modes(request));
  const expected = [
    ...Array.from({ length: 63 }, (_, at) => 10 + at),
    ...Array.from({ length: 300 }, (_, at) => 100 + at),
  ];
  assert.deepEqual(all, expected);
  for (const { request } of sent) assert.ok(request.operations.length <= BATCH_MAX);
  assert.equal(log.waiting, 0);
});

test('without a grant nothing is changed here, and the target is asked for one', async () => {
  const { log, sent, answer } = changeLog(0);
  assert.equal(log.hasRoom(2048), false);
  assert.deepEqual(
    sent.map(({ request }) => request),
    [{ operations: [], grantUsed: 0 }],
  );
  assert.equal(log.hasRoom(2048), false);
  assert.equal(sent.length, 1, 'it has been asked already');
  await answer({ grantBytes: 4096 });
  assert.equal(log.hasRoom(2048), true);
  log.add(change(10, 4096));
  assert.equal(log.hasRoom(1), false);
});

test('the answer brings the locks of what was born; one that it does not bring was refused', async () => {
  const { log, granted, answer } = changeLog();
  log.add({ ...change(10), born: { fid: 10 as Fid, locks: [lockOn(10, 'PR'), lockOn(10, 'PW')] } });
  assert.deepEqual([log.isBorn(10 as Fid), log.isWaiting(10 as Fid)], [true, true]);
  log.push();
  assert.deepEqual([log.isBorn(10 as Fid), log.isWaiting(10 as Fid)], [true, false]);
  const locks: GrantMessage[] = [
    { handle: 7 as LockHandle, fid: 10 as Fid, type: 'inode', mode: 'PR', bits: 2 },
  ];
  await answer({ locks });
  assert.deepEqual(granted, ['10 PR 7', '10 PW refused']);
  assert.equal(log.isBorn(10 as Fid), false);
});

test('an answer with a lock that nobody asked for, and a failure, leave nothing of the changes in the log', async () => {
  const { log, granted, sent } = changeLog();
  const born = { fid: 10 as Fid, locks: [lockOn(10, 'PR')] };
  log.add({ ...change(10), born });
  log.push();
  const locks: GrantMessage[] = [
    { handle: 7 as LockHandle, fid: 10 as Fid, type: 'inode', mode: 'PR', bits: 2 },
    { handle: 8 as LockHandle, fid: 11 as Fid, type: 'inode', mode: 'PR', bits: 2 },
  ];
  const reply = answerOf({ locks });
  const [batch] = sent;
  assert.throws(() => batch?.options.apply?.(reply), { code: 'EPROTO' });
  batch?.answered.reject(new FsError('EPROTO', 'as the requester does it'));
  await new Promise((resolve) => setImmediate(resolve));
  log.checkInvariants();
  assert.deepEqual([log.size, granted], [0, ['10 PR refused']]);
});

test('flushed() resolves when all that was there is answered, and not later', async () => {
  const { log, answer } = changeLog();
  log.add(change(10));
  log.push();
  log.add(change(11));
  let done = false;
  log.flushed().then(() => {
    done = true;
  });
  log.add(change(12));
  log.push();
  await answer();
  assert.equal(done, false);
  await answer();
  assert.equal(done, true);
  assert.equal(log.size, 1);
  assert.equal(log.settled(10 as Fid), undefined);
  assert.ok(log.settled(12 as Fid) instanceof Promise);
});

test('what an operation under way may touch is pinned; if nobody knows what that is, everything is', () => {
  const { log } = changeLog();
  const one = log.pin([10 as Fid]);
  const two = log.pin([10 as Fid, undefined]);
  assert.deepEqual([log.isPinned(10 as Fid), log.isPinned(11 as Fid)], [true, true]);
  two();
  assert.deepEqual([log.isPinned(10 as Fid), log.isPinned(11 as Fid)], [true, false]);
  one();
  assert.equal(log.isPinned(10 as Fid), false);
});

test('an eviction empties the log and wakes who waits; answers to what was sent before it change nothing', async () => {
  const { log, sent, answer } = changeLog();
  log.add(change(10));
  const flushed = log.flushed();
  log.add(change(11));
  log.clear();
  await flushed;
  log.checkInvariants();
  log.promised(1 << 20);
  log.add(change(20));
  await answer({ grantBytes: 1 << 30 });
  assert.deepEqual([log.size, log.touches(20 as Fid)], [1, true]);
  assert.equal(log.hasRoom(1 << 21), false);
  log.push();
  sent.at(-1)?.answered.reject(new FsError('EIO', 'the test wants it'));
});
