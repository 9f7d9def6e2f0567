import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type IntrMode, interruptPolicy, judgeSignals, parseSignalSets } from '../../../mount/signals.js';
import type { SignalReach } from '../../../src/fuse/handlers.js';
import { until } from '../../fixtures/until.js';

const bit = (signal: number): bigint => 1n << BigInt(signal - 1);
const NOTHING = { pending: 0n, sharedPending: 0n, blocked: 0n, ignored: 0n, caught: 0n };

/**
 * A process with the given dispositions that is stopped, so that what it is sent stays pending as it does for a
 * process in a blocked call. Being stopped must not be what is judged, so SIGSTOP itself is long delivered.
 */
async function stopped(t: TestContext, setup: string): Promise<ChildProcess & { pid: number }> {
  const script = `import signal, sys, os\n${setup}\nprint('up', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\nsignal.pause()`;
  const child = spawn('python3', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  await once(child.stdout, 'data');
  const { pid } = child;
  assert.ok(pid !== undefined);
  await until('the child has stopped itself', () => /State:\s*T/.test(statusOf(pid)));
  return Object.assign(child, { pid });
}

function statusOf(pid: number): string {
  return readFileSync(`/proc/${pid}/status`, 'latin1');
}

const SETUP = {
  plain: 'signal.signal(signal.SIGINT, signal.SIG_DFL)',
  catching: `
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1,
          signal.SIGWINCH, signal.SIGSEGV):
    signal.signal(s, lambda *_: None)`,
  ignoring: `
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(s, signal.SIG_IGN)`,
  blocking: 'signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGUSR1])',
};

const CASES: readonly (readonly [keyof typeof SETUP, NodeJS.Signals, SignalReach, SignalReach])[] = [
  // dispositions, signal, what it may end with intr=fatal, with intr=all
  ['plain', 'SIGINT', 'everyCall', 'everyCall'],
  ['plain', 'SIGTERM', 'everyCall', 'everyCall'],
  ['plain', 'SIGUSR1', 'everyCall', 'everyCall'],
  ['plain', 'SIGALRM', 'everyCall', 'everyCall'],
  ['plain', 'SIGCHLD', 'nothing', 'nothing'], // the kernel drops it
  ['plain', 'SIGTSTP', 'lockWaits', 'everyCall'],
  ['catching', 'SIGINT', 'awayCalls', 'everyCall'],
  ['catching', 'SIGTERM', 'awayCalls', 'everyCall'],
  ['catching', 'SIGQUIT', 'awayCalls', 'everyCall'],
  ['catching', 'SIGHUP', 'awayCalls', 'everyCall'],
  ['catching', 'SIGALRM', 'lockWaits', 'everyCall'],
  ['catching', 'SIGUSR1', 'lockWaits', 'everyCall'],
  ['catching', 'SIGCHLD', 'lockWaits', 'everyCall'],
  ['catching', 'SIGWINCH', 'lockWaits', 'everyCall'],
  ['ignoring', 'SIGINT', 'nothing', 'nothing'],
  ['ignoring', 'SIGUSR1', 'nothing', 'nothing'],
  ['ignoring', 'SIGHUP', 'everyCall', 'everyCall'],
  ['blocking', 'SIGINT', 'nothing', 'nothing'],
  ['blocking', 'SIGUSR1', 'nothing', 'nothing'],
  ['blocking', 'SIGTERM', 'everyCall', 'everyCall'],
];

for (const [kind, signal, fatal, all] of CASES) {
  test(`a process that is ${kind}: ${signal} may end ${fatal}, with intr=all ${all}`, async (t) => {
    const child = await stopped(t, SETUP[kind]);
    assert.equal(interruptPolicy('all')(child.pid), 'nothing', 'nothing is pending yet');
    child.kill(signal);
    assert.deepEqual(
      (['fatal', 'all'] as readonly IntrMode[]).map((mode) => interruptPolicy(mode)(child.pid)),
      [fatal, all],
    );
  });
}

test('SIGKILL counts even when it is only in the shared set, and a caught SIGSEGV only with intr=all', () => {
  assert.equal(judgeSignals({ ...NOTHING, sharedPending: bit(9) }, 'fatal'), 'everyCall');
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(11), caught: bit(11) }, 'fatal'), 'lockWaits');
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(11), caught: bit(11) }, 'all'), 'everyCall');
  assert.equal(
    judgeSignals({ ...NOTHING, pending: bit(40) }, 'fatal'),
    'everyCall',
    'real-time signals kill by default',
  );
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(64), caught: bit(64) }, 'fatal'), 'lockWaits');
});

test('a caught signal waits for the page fault it would turn into SIGBUS; one that kills does not', (t) => {
  const proc = mkdtempSync(join(tmpdir(), 'holdfast-proc-'));
  t.after(() => rmSync(proc, { recursive: true }));
  const status = (caught: string): string =>
    `SigPnd:\t0000000000000000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t${caught}\n`;
  const look = (caught: string, syscall: string): SignalReach => {
    mkdirSync(join(proc, '7'), { recursive: true });
    writeFileSync(join(proc, '7', 'status'), status(caught));
    writeFileSync(join(proc, '7', 'syscall'), syscall);
    return interruptPolicy('fatal', proc)(7);
  };
  assert.deepEqual(
    [
      look('0000000000000002', '-1 0x7ffd0 0x55d0\n'),
      look('0000000000000002', '17 0x3 0x0\n'),
      look('0000000000000000', '-1 0x7ffd0 0x55d0\n'),
    ],
    ['nothing', 'awayCalls', 'everyCall'],
  );
});

test('a caller that cannot be seen can be interrupted while the server is away', () => {
  assert.equal(interruptPolicy('fatal')(0), 'awayCalls');
  assert.equal(interruptPolicy('fatal', '/no/such/folder')(1), 'awayCalls');
  assert.equal(interruptPolicy('all')(0), 'everyCall');
});

test('the sets of this very process can be read', () => {
  const sets = parseSignalSets(statusOf(process.pid));
  assert.equal(sets.pending, 0n);
  assert.notEqual(sets.caught & bit(10), 0n, 'node catches SIGUSR1 for its debugger');
});
