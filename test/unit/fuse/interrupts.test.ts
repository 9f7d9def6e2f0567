/** INTERRUPT in every order: before, during and after its request, fatal and not, twice, at teardown. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERRNO, FsError } from '../../../src/base/errno.js';
import { OPCODE } from '../../../src/fuse/constants.js';
import type { RequestContext, SignalReach } from '../../../src/fuse/handlers.js';
import {
  type KernelSide,
  kernelSide,
  type Reply,
  request,
  someHandlers,
} from '../../fixtures/fuse_kernel_side.js';

interface Scene extends KernelSide {
  /** Thread ids the policy was asked about. */
  readonly asked: number[];
  /** What the policy says from now on. */
  setReach(reach: SignalReach): void;
  /** Time that has passed. */
  nowMs: number;
  /** For how long the server has been away. */
  awayMs: number;
  /** Tells the dispatcher that the waiting SETLKW waits for another owner. */
  queued(): void;
  /** Lets the waiting request succeed. */
  finish(): void;
}

const RETRY_MS = 30;
const GRACE_MS = 1000;
const UNIQUE = 10n;

function scene(first: SignalReach): Scene {
  const asked: number[] = [];
  const time = { nowMs: 5000, awayMs: 0 };
  let reach = first;
  let queued: () => void = () => undefined;
  let finish: () => void = () => undefined;
  const wait = (context: RequestContext): Promise<void> =>
    new Promise((resolve, reject) => {
      finish = resolve;
      queued = () => context.waitsForOwner?.();
      context.signal.addEventListener('abort', () => reject(context.signal.reason));
    });
  const side = kernelSide(
    someHandlers({
      unlink: wait,
      flush: wait,
      setlk: wait,
      awayMs: () => time.awayMs,
      rmdir: () => undefined,
      getattr: () => Promise.reject(new FsError('EIO')),
    }),
    {
      interruptRetryMs: RETRY_MS,
      interruptGraceMs: GRACE_MS,
      clock: { nowMs: () => time.nowMs },
      interruptPolicy: (pid) => {
        asked.push(pid);
        return reach;
      },
    },
  );
  return Object.assign(time, side, {
    asked,
    setReach: (value: SignalReach) => {
      reach = value;
    },
    queued: () => queued(),
    finish: () => finish(),
  });
}

const waiting = (unique = UNIQUE): Buffer => request({ opcode: OPCODE.UNLINK, unique, pid: 77 }, 'a');
const interrupt = (unique = UNIQUE): Buffer =>
  request({ opcode: OPCODE.INTERRUPT, unique: unique | 1n, nodeid: 0, pid: 0 }, unique);
const brief = (replies: Reply[]): [bigint, number][] => replies.map(({ unique, errno }) => [unique, errno]);

test('a fatal signal ends the waiting request with EINTR; the INTERRUPT itself is not answered', async () => {
  const s = scene('everyCall');
  s.batch(waiting());
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count, s.dispatcher.pendingCount], [[77], 0, 0]);
});

test('request and interrupt in one batch are the same', async () => {
  const s = scene('everyCall');
  s.batch(waiting(), interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
});

test('a signal that is not fatal: EAGAIN after a while, asked again, until one is fatal', async () => {
  const s = scene('nothing');
  s.batch(waiting(), interrupt());
  assert.deepEqual(await s.later(), []);
  assert.deepEqual(s.timers.delays, [RETRY_MS]);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.batch(interrupt());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.setReach('everyCall');
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count], [[77, 77, 77], 0]);
});

test('the end of the request cancels the timer of its ignored interrupt', async () => {
  const s = scene('nothing');
  s.batch(waiting(), interrupt());
  assert.equal(s.timers.count, 1);
  s.finish();
  assert.deepEqual(brief(await s.later()), [[UNIQUE, 0]]);
  assert.equal(s.timers.count, 0);
});

test('an interrupt before its request takes effect when the request begins to wait', async () => {
  const s = scene('everyCall');
  s.batch(interrupt());
  assert.deepEqual([s.asked, s.timers.count], [[], 1]);
  s.batch(waiting());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count], [[77], 0]);
});

test('an early interrupt that is not fatal goes the slow way', async () => {
  const s = scene('nothing');
  s.batch(interrupt(), waiting());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.setReach('everyCall');
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
});

test('an early interrupt of a request that is answered at once leaves no timer', () => {
  const s = scene('everyCall');
  s.batch(interrupt(), request({ opcode: OPCODE.RMDIR, unique: UNIQUE }, 'b'));
  assert.deepEqual([s.timers.count, s.asked], [0, []]);
});

test('an interrupt after the answer is answered EAGAIN once, which the kernel does not mind', async () => {
  const s = scene('everyCall');
  s.batch(request({ opcode: OPCODE.RMDIR, unique: UNIQUE }, 'b'), interrupt());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  assert.equal(s.timers.count, 0);
});

test('FLUSH is never cut short', async () => {
  const s = scene('everyCall');
  s.batch(request({ opcode: OPCODE.FLUSH, unique: UNIQUE }, 1n, 0, 0, 1n), interrupt());
  assert.deepEqual([await s.later(), s.asked, s.timers.count], [[], [], 0]);
  s.finish();
  assert.deepEqual(brief(await s.later()), [[UNIQUE, 0]]);
});

test('only the interrupted one of two requests ends', async () => {
  const s = scene('everyCall');
  s.batch(waiting(10n), waiting(12n));
  s.batch(interrupt(10n));
  assert.deepEqual(brief(await s.later()), [[10n, ERRNO.EINTR]]);
  assert.equal(s.dispatcher.pendingCount, 1);
});

test('the interrupt of a request that was sent again carries its bit 63 back', async () => {
  const resent = UNIQUE | (1n << 63n);
  const s = scene('nothing');
  s.batch(waiting(), waiting(resent), interrupt(resent));
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[resent | 1n, ERRNO.EAGAIN]]);
  s.setReach('everyCall');
  s.batch(interrupt(resent));
  assert.deepEqual(brief(await s.later()), [[resent, ERRNO.EINTR]]);
});

test('a policy that fails counts as "not fatal"', async () => {
  const side = kernelSide(someHandlers({ unlink: () => new Promise(() => undefined) }), {
    interruptPolicy: () => {
      throw new Error('no /proc');
    },
  });
  side.batch(waiting(), interrupt());
  assert.deepEqual([await side.later(), side.timers.count], [[], 1]);
});

test('the end of the connection cancels all timers', () => {
  const s = scene('nothing');
  s.batch(waiting(10n), waiting(12n), interrupt(10n), interrupt(12n), interrupt(14n));
  assert.equal(s.timers.count, 3);
  s.dispatcher.deviceGone();
  assert.deepEqual([s.timers.count, s.dispatcher.pendingCount], [0, 0]);
});

test('an unknown high half of unique is no other request', async () => {
  const s = scene('everyCall');
  s.batch(waiting(10n));
  s.batch(interrupt(10n + (1n << 40n)));
  assert.deepEqual([await s.later(), s.dispatcher.pendingCount], [[], 1]);
});

/** The kernel's part: the INTERRUPT that was answered EAGAIN comes again, until the request is answered or `times` are over. */
async function asksAgain(s: Scene, times = 1): Promise<[bigint, number][]> {
  for (let round = 0; round < times; round++) {
    s.timers.fireAll();
    const again = brief(await s.later());
    assert.deepEqual(again, [[UNIQUE | 1n, ERRNO.EAGAIN]]);
    s.batch(interrupt());
    const ended = brief(await s.later());
    if (ended.length > 0) return ended;
  }
  return [];
}

const lockWait = (type: 0 | 1 | 2 = 1): Buffer =>
  // fuse_lk_in: fh, owner, start, end, type, pid, flags.
  request({ opcode: OPCODE.SETLKW, unique: UNIQUE, pid: 77 }, 1n, 9n, 0n, 99n, type, 77, 0, 0);

test('a caught signal never ends a call of a server that is there, however long it takes', async () => {
  for (const reach of ['awayCalls', 'lockWaits'] as const) {
    const s = scene(reach);
    s.batch(waiting(), interrupt());
    s.nowMs += 60_000;
    assert.deepEqual(await asksAgain(s, 5), []);
  }
});

test('a caught INT, TERM, QUIT or HUP ends a call when its server has been away for the grace, without another signal', async () => {
  const s = scene('awayCalls');
  // The call has waited for long; its server went away only now.
  s.batch(waiting());
  s.nowMs += 60_000;
  s.awayMs = 1;
  s.batch(interrupt());
  s.awayMs = GRACE_MS - 1;
  assert.deepEqual(await asksAgain(s, 2), []);
  s.awayMs = GRACE_MS;
  assert.deepEqual(await asksAgain(s), [[UNIQUE, ERRNO.EINTR]]);
});

test('a call that begins while the server is away waits for the grace as well', async () => {
  const s = scene('awayCalls');
  s.awayMs = 60_000;
  s.batch(waiting(), interrupt());
  s.nowMs += GRACE_MS - 1;
  assert.deepEqual(await asksAgain(s, 2), []);
  s.nowMs += 1;
  assert.deepEqual(await asksAgain(s), [[UNIQUE, ERRNO.EINTR]]);
});

test('other caught signals do not end a call even if the server is away for long; SIGKILL then does', async () => {
  const s = scene('lockWaits');
  s.awayMs = 60_000;
  s.batch(waiting(), interrupt());
  s.nowMs += 60_000;
  assert.deepEqual(await asksAgain(s, 5), []);
  s.setReach('everyCall');
  assert.deepEqual(await asksAgain(s), [[UNIQUE, ERRNO.EINTR]]);
});

test('every caught signal ends a wait for the lock of another owner, but not the request for a lock', async () => {
  const s = scene('lockWaits');
  s.batch(lockWait(), interrupt());
  assert.deepEqual(await asksAgain(s, 3), []);
  s.queued();
  assert.deepEqual(await asksAgain(s), [[UNIQUE, ERRNO.EINTR]]);
});

test('a request for a lock that waits for a server that is away ends by every caught signal after the grace', async () => {
  const s = scene('lockWaits');
  s.awayMs = 60_000;
  s.batch(lockWait(), interrupt());
  assert.deepEqual(await asksAgain(s), []);
  s.nowMs += GRACE_MS;
  assert.deepEqual(await asksAgain(s), [[UNIQUE, ERRNO.EINTR]]);
});

test('an unlock is no wait, whichever opcode it comes with', async () => {
  const s = scene('lockWaits');
  s.awayMs = 60_000;
  s.batch(lockWait(2), interrupt());
  s.nowMs += GRACE_MS;
  assert.deepEqual(await asksAgain(s, 3), []);
  s.finish();
  assert.deepEqual(brief(await s.later()), [[UNIQUE, 0]]);
});
