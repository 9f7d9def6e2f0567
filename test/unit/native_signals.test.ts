import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type IntrMode, interruptPolicy, judgeSignals, parseSignalSets } from '../../mount/signals.js';
import { until } from '../fixtures/until.js';

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
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGWINCH, signal.SIGSEGV):
    signal.signal(s, lambda *_: None)`,
  ignoring: `
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(s, signal.SIG_IGN)`,
  blocking: 'signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGUSR1])',
};

const CASES: readonly (readonly [keyof typeof SETUP, NodeJS.Signals, boolean, boolean])[] = [
  // dispositions, signal, ends a call with intr=fatal, with intr=all
  ['plain', 'SIGINT', true, true],
  ['plain', 'SIGTERM', true, true],
  ['plain', 'SIGUSR1', true, true],
  ['plain', 'SIGALRM', true, true],
  ['plain', 'SIGCHLD', false, false], // the kernel drops it
  ['plain', 'SIGTSTP', false, true],
  ['catching', 'SIGINT', true, true],
  ['catching', 'SIGTERM', true, true],
  ['catching', 'SIGHUP', true, true],
  ['catching', 'SIGUSR1', false, true],
  ['catching', 'SIGCHLD', false, true],
  ['catching', 'SIGWINCH', false, true],
  ['ignoring', 'SIGINT', false, false],
  ['ignoring', 'SIGUSR1', false, false],
  ['ignoring', 'SIGHUP', true, true],
  ['blocking', 'SIGINT', false, false],
  ['blocking', 'SIGUSR1', false, false],
  ['blocking', 'SIGTERM', true, true],
];

for (const [kind, signal, fatal, all] of CASES) {
  test(`a process that is ${kind}: ${signal} ends its calls fatal=${fatal} all=${all}`, async (t) => {
    const child = await stopped(t, SETUP[kind]);
    assert.equal(interruptPolicy('all')(child.pid), false, 'nothing is pending yet');
    child.kill(signal);
    assert.deepEqual(
      (['fatal', 'all'] as readonly IntrMode[]).map((mode) => interruptPolicy(mode)(child.pid)),
      [fatal, all],
    );
  });
}

test('SIGKILL counts even when it is only in the shared set, and a caught SIGSEGV only with intr=all', () => {
  assert.equal(judgeSignals({ ...NOTHING, sharedPending: bit(9) }, 'fatal'), 'dies');
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(11), caught: bit(11) }, 'fatal'), 'none');
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(11), caught: bit(11) }, 'all'), 'caught');
  assert.equal(
    judgeSignals({ ...NOTHING, pending: bit(40) }, 'fatal'),
    'dies',
    'real-time signals kill by default',
  );
  assert.equal(judgeSignals({ ...NOTHING, pending: bit(64), caught: bit(64) }, 'fatal'), 'none');
});

test('a caught signal waits for the page fault it would turn into SIGBUS; one that kills does not', (t) => {
  const proc = mkdtempSync(join(tmpdir(), 'holdfast-proc-'));
  t.after(() => rmSync(proc, { recursive: true }));
  const status = (caught: string): string =>
    `SigPnd:\t0000000000000000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t${caught}\n`;
  const look = (caught: string, syscall: string): boolean => {
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
    [false, true, true],
  );
});

test('a caller that cannot be seen can be interrupted', () => {
  assert.equal(interruptPolicy('fatal')(0), true);
  assert.equal(interruptPolicy('fatal', '/no/such/folder')(1), true);
});

test('the sets of this very process can be read', () => {
  const sets = parseSignalSets(statusOf(process.pid));
  assert.equal(sets.pending, 0n);
  assert.notEqual(sets.caught & bit(10), 0n, 'node catches SIGUSR1 for its debugger');
});
