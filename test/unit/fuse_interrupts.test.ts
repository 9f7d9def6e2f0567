/** INTERRUPT in every order: before, during and after its request, fatal and not, twice, at teardown. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERRNO, FsError } from '../../src/base/errno.js';
import { OPCODE } from '../../src/fuse/constants.js';
import type { RequestContext } from '../../src/fuse/handlers.js';
import {
  type KernelSide,
  kernelSide,
  type Reply,
  request,
  someHandlers,
} from '../fixtures/fuse_kernel_side.js';

interface Scene extends KernelSide {
  /** Thread ids the policy was asked about. */
  readonly asked: number[];
  /** What the policy says from now on. */
  setFatal(fatal: boolean): void;
  /** Lets the waiting UNLINK succeed. */
  finish(): void;
}

const RETRY_MS = 30;
const UNIQUE = 10n;

function scene(fatalAtFirst: boolean): Scene {
  const asked: number[] = [];
  let fatal = fatalAtFirst;
  let finish: () => void = () => undefined;
  const wait = (context: RequestContext): Promise<void> =>
    new Promise((resolve, reject) => {
      finish = resolve;
      context.signal.addEventListener('abort', () => reject(context.signal.reason));
    });
  const side = kernelSide(
    someHandlers({
      unlink: wait,
      flush: wait,
      rmdir: () => undefined,
      getattr: () => Promise.reject(new FsError('EIO')),
    }),
    {
      interruptRetryMs: RETRY_MS,
      interruptPolicy: (pid) => {
        asked.push(pid);
        return fatal;
      },
    },
  );
  return {
    ...side,
    asked,
    setFatal: (value) => {
      fatal = value;
    },
    finish: () => finish(),
  };
}

const waiting = (unique = UNIQUE): Buffer => request({ opcode: OPCODE.UNLINK, unique, pid: 77 }, 'a');
const interrupt = (unique = UNIQUE): Buffer =>
  request({ opcode: OPCODE.INTERRUPT, unique: unique | 1n, nodeid: 0, pid: 0 }, unique);
const brief = (replies: Reply[]): [bigint, number][] => replies.map(({ unique, errno }) => [unique, errno]);

test('a fatal signal ends the waiting request with EINTR; the INTERRUPT itself is not answered', async () => {
  const s = scene(true);
  s.batch(waiting());
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count, s.dispatcher.pendingCount], [[77], 0, 0]);
});

test('request and interrupt in one batch are the same', async () => {
  const s = scene(true);
  s.batch(waiting(), interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
});

test('a signal that is not fatal: EAGAIN after a while, asked again, until one is fatal', async () => {
  const s = scene(false);
  s.batch(waiting(), interrupt());
  assert.deepEqual(await s.later(), []);
  assert.deepEqual(s.timers.delays, [RETRY_MS]);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.batch(interrupt());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.setFatal(true);
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count], [[77, 77, 77], 0]);
});

test('the end of the request cancels the timer of its ignored interrupt', async () => {
  const s = scene(false);
  s.batch(waiting(), interrupt());
  assert.equal(s.timers.count, 1);
  s.finish();
  assert.deepEqual(brief(await s.later()), [[UNIQUE, 0]]);
  assert.equal(s.timers.count, 0);
});

test('an interrupt before its request takes effect when the request begins to wait', async () => {
  const s = scene(true);
  s.batch(interrupt());
  assert.deepEqual([s.asked, s.timers.count], [[], 1]);
  s.batch(waiting());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
  assert.deepEqual([s.asked, s.timers.count], [[77], 0]);
});

test('an early interrupt that is not fatal goes the slow way', async () => {
  const s = scene(false);
  s.batch(interrupt(), waiting());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  s.setFatal(true);
  s.batch(interrupt());
  assert.deepEqual(brief(await s.later()), [[UNIQUE, ERRNO.EINTR]]);
});

test('an early interrupt of a request that is answered at once leaves no timer', () => {
  const s = scene(true);
  s.batch(interrupt(), request({ opcode: OPCODE.RMDIR, unique: UNIQUE }, 'b'));
  assert.deepEqual([s.timers.count, s.asked], [0, []]);
});

test('an interrupt after the answer is answered EAGAIN once, which the kernel does not mind', async () => {
  const s = scene(true);
  s.batch(request({ opcode: OPCODE.RMDIR, unique: UNIQUE }, 'b'), interrupt());
  assert.equal(s.timers.count, 1);
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[UNIQUE | 1n, ERRNO.EAGAIN]]);
  assert.equal(s.timers.count, 0);
});

test('FLUSH is never cut short', async () => {
  const s = scene(true);
  s.batch(request({ opcode: OPCODE.FLUSH, unique: UNIQUE }, 1n, 0, 0, 1n), interrupt());
  assert.deepEqual([await s.later(), s.asked, s.timers.count], [[], [], 0]);
  s.finish();
  assert.deepEqual(brief(await s.later()), [[UNIQUE, 0]]);
});

test('only the interrupted one of two requests ends', async () => {
  const s = scene(true);
  s.batch(waiting(10n), waiting(12n));
  s.batch(interrupt(10n));
  assert.deepEqual(brief(await s.later()), [[10n, ERRNO.EINTR]]);
  assert.equal(s.dispatcher.pendingCount, 1);
});

test('the interrupt of a request that was sent again carries its bit 63 back', async () => {
  const resent = UNIQUE | (1n << 63n);
  const s = scene(false);
  s.batch(waiting(), waiting(resent), interrupt(resent));
  s.timers.fireAll();
  assert.deepEqual(brief(await s.later()), [[resent | 1n, ERRNO.EAGAIN]]);
  s.setFatal(true);
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
  const s = scene(false);
  s.batch(waiting(10n), waiting(12n), interrupt(10n), interrupt(12n), interrupt(14n));
  assert.equal(s.timers.count, 3);
  s.dispatcher.deviceGone();
  assert.deepEqual([s.timers.count, s.dispatcher.pendingCount], [0, 0]);
});

test('an unknown high half of unique is no other request', async () => {
  const s = scene(true);
  s.batch(waiting(10n));
  s.batch(interrupt(10n + (1n << 40n)));
  assert.deepEqual([await s.later(), s.dispatcher.pendingCount], [[], 1]);
});
