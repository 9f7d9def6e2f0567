/**
 * The demo's story. The demo knows every process that it starts by id, and ends it in any case. A failure on the way becomes
 * the exit status and leaves nothing behind.
 */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMounted } from '../../../mount/unmount.js';
import { packageRoot } from '../../../native/binding.js';
import { nodeRuntime } from '../../runtime/node_runtime.js';
import { sleep } from '../../runtime/ports.js';
import { parseAddress } from '../common.js';
import { CliError } from '../failure.js';
import { installedVersion } from '../installed.js';
import type { TakenOver } from '../takeover_request.js';
import { type Child, runCommand, startChild, startUntilLine } from './process.js';
import type { RoleName } from './roles.js';
import { tryStrangers } from './strangers.js';
import { installAs, nextVersion } from './tree.js';
import { startView, type View } from './view.js';
import type { WorkerReport } from './worker.js';

const WORKER = fileURLToPath(new URL('./worker.js', import.meta.url));
const STANDBY = /^holdfast: standing by/;
const READY = /^holdfast: serving \S+ on (\S+), version (\S+), instance (\d+)/;
/** How long the server stays away in the second upgrade, which has no standby. */
const DOWN_MS = 1000;
/** A blocked process must be gone this soon after SIGINT. */
const INTERRUPT_LIMIT_MS = 1000;
const BLOCKED_WITHIN_MS = 5000;
/** The clean-up kills an interrupted command that needs longer than this. */
const COMMAND_ENDS_MS = 5000;

export interface DemoOptions {
  /** How long the workload runs between the events, in ms. */
  readonly phase: number;
  /** Size of each device in MiB. */
  readonly size: number;
  readonly keep?: boolean;
}

interface Worker {
  readonly role: RoleName;
  readonly child: Child;
  report: WorkerReport | undefined;
}

interface Stage {
  readonly folder: string;
  readonly view: View;
  readonly options: DemoOptions;
  readonly main: string;
  readonly devices: readonly string[];
  readonly mounts: string[];
  readonly workers: Worker[];
  readonly servers: Child[];
  /** Other processes, which the clean-up ends in any case. */
  readonly children: Child[];
  /** Commands that have not ended yet. */
  readonly commands: Set<Child>;
  /** The clean-up has begun. The story goes on until it next looks at this, and starts nothing more. */
  ended: boolean;
  /** Aborts when the clean-up begins: nothing waits any more. */
  readonly over: AbortController;
  address: string;
  version: string;
  phase: string;
}

/** @throws CliError if any check fails. */
export async function runDemo(options: DemoOptions): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new CliError('the demo makes loop devices and mounts: run it as root (sudo npm start)');
  }
  const startedAt = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-demo-'));
  const stage: Stage = {
    folder,
    view: startView(process.stdout, () => performance.now() - startedAt),
    options,
    main: join(packageRoot(), 'dist', 'bin', 'main.js'),
    devices: [join(folder, 'meta.img'), join(folder, 'data.img')],
    mounts: [],
    workers: [],
    servers: [],
    children: [],
    commands: new Set(),
    ended: false,
    over: new AbortController(),
    address: '127.0.0.1:0',
    version: installedVersion(),
    phase: 'start',
  };
  const interrupted = new Promise<never>((_resolve, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) {
      // A second signal does not end the clean-up.
      process.on(signal, () => reject(new CliError(`the demo was ended by ${signal}`)));
    }
  });
  const redraw = setInterval(() => stage.view.update(liveLines(stage)), 150);
  let failure: unknown;
  try {
    await Promise.race([play(stage), interrupted]);
  } catch (thrown) {
    failure = thrown;
  } finally {
    clearInterval(redraw);
    stage.view.end();
    await cleanUp(stage);
  }
  if (failure !== undefined) throw failure;
  summarize(stage);
}

async function play(stage: Stage): Promise<void> {
  const { timers } = nodeRuntime();
  await build(stage);
  for (const tried of await tryStrangers(parseAddress(stage.address))) stage.view.event(tried);
  startWorkload(stage);
  await Promise.race([sleep(timers, stage.options.phase, stage.over.signal), workloadFailure(stage)]);
  await upgradeWithStandby(stage);
  await Promise.race([sleep(timers, stage.options.phase, stage.over.signal), workloadFailure(stage)]);
  await upgradeWithoutStandby(stage);
  await Promise.race([sleep(timers, stage.options.phase, stage.over.signal), workloadFailure(stage)]);
  await takeClientsOver(stage);
  await Promise.race([sleep(timers, stage.options.phase, stage.over.signal), workloadFailure(stage)]);
  await verify(stage);
}

/** The story calls it before it starts anything. @throws CliError if the demo has been ended meanwhile. */
function requireGoing(stage: Stage): void {
  if (stage.ended) throw new CliError('the demo was ended');
}

function runInStage(stage: Stage, name: string, args: readonly string[]): Promise<string> {
  requireGoing(stage);
  return runCommand(name, stage.main, args, stage.commands);
}

async function build(stage: Stage): Promise<void> {
  const { view, main, devices } = stage;
  const [meta = '', data = ''] = devices;
  for (const [path, mib] of [
    [meta, Math.max(128, stage.options.size / 4)],
    [data, stage.options.size],
  ] as const) {
    writeFileSync(path, '');
    truncateSync(path, mib * (1 << 20));
  }
  view.event(
    (await runInStage(stage, 'mkfs', ['mkfs', '--meta', meta, '--data', data, '--label', 'demo'])).replace(
      /^holdfast: /,
      '',
    ),
  );
  await startServer(stage, main);
  for (const name of ['mnt-a', 'mnt-b']) {
    const mountpoint = join(stage.folder, name);
    mkdirSync(mountpoint);
    const before = performance.now();
    // In the list before it is there: an interrupted demo looks for it.
    stage.mounts.push(mountpoint);
    await runInStage(stage, 'mount', ['mount', stage.address, mountpoint]);
    view.event(`mounted ${mountpoint} in ${Math.round(performance.now() - before)} ms`);
  }
}

/** Resolves when the standby waits; `active` when it has taken over. */
async function startStandby(stage: Stage, main: string): Promise<{ readonly active: Promise<void> }> {
  requireGoing(stage);
  let nowWaiting: () => void = () => {};
  const waiting = new Promise<void>((resolve) => {
    nowWaiting = resolve;
  });
  const { child, ready } = startUntilLine('standby', main, serveArgs(stage, ['--standby']), READY, (line) => {
    if (STANDBY.test(line)) nowWaiting();
  });
  stage.servers.push(child);
  const active = ready.then((match) => noteServing(stage, match));
  await Promise.race([waiting, active]);
  return { active };
}

function serveArgs(stage: Stage, extra: readonly string[]): readonly string[] {
  const [meta = '', data = ''] = stage.devices;
  return ['serve', '--meta', meta, '--data', data, '--listen', stage.address, ...extra];
}

function noteServing(stage: Stage, match: RegExpExecArray): void {
  stage.address = match[1] ?? stage.address;
  stage.version = match[2] ?? stage.version;
  stage.view.event(`serving on ${stage.address}, version ${stage.version}, instance ${match[3]}`);
}

async function startServer(stage: Stage, main: string): Promise<void> {
  requireGoing(stage);
  const { child, ready } = startUntilLine('serve', main, serveArgs(stage, []), READY);
  stage.servers.push(child);
  noteServing(stage, await ready);
}

function startWorkload(stage: Stage): void {
  const [a = '', b = ''] = stage.mounts;
  const work = join(a, 'work');
  const same = join(b, 'work');
  stage.phase = 'steady';
  const plan: readonly (readonly [RoleName, string, string])[] = [
    ['appender', work, same],
    ['metadata', work, same],
    ['unlinked', work, same],
    ['lockHolder', work, same],
    ['mapper', work, same],
    ['streamer', work, same],
  ];
  for (const [role, folder, other] of plan) startWorker(stage, role, folder, other);
  stage.view.event(`workload: ${plan.map(([role]) => role).join(', ')}`);
}

function startWorker(stage: Stage, role: RoleName, folder: string, other: string): Worker {
  requireGoing(stage);
  const worker: Worker = {
    role,
    report: undefined,
    child: startChild(role, WORKER, [role, folder, other], (line) => {
      worker.report = JSON.parse(line) as WorkerReport;
      if (
        role === 'lockHolder' &&
        !stage.ended &&
        !stage.workers.some((each) => each.role === 'lockContender')
      ) {
        startWorker(stage, 'lockContender', other, folder);
      }
    }),
  };
  worker.child.send({ phase: stage.phase });
  stage.workers.push(worker);
  return worker;
}

function setPhase(stage: Stage, phase: string): void {
  stage.phase = phase;
  for (const worker of stage.workers) worker.child.send({ phase });
}

/** Rejects as soon as a worker finds an error or dies. */
async function workloadFailure(stage: Stage): Promise<never> {
  return Promise.race(
    stage.workers.map(async (worker) => {
      const { code, signal } = await worker.child.exited;
      const errors = worker.report?.errors.join('; ') ?? '';
      throw new CliError(
        `${worker.role} ended (${signal ?? `status ${code}`}): ${errors} ${worker.child.stderrTail()}`,
      );
    }),
  );
}

async function upgradeWithStandby(stage: Stage): Promise<void> {
  const version = nextVersion(stage.version);
  requireGoing(stage);
  const main = installAs(version, join(stage.folder, `holdfast-${version}`));
  stage.view.event(`upgrade 1: version ${version} stands by, version ${stage.version} is shut down`);
  setPhase(stage, 'upgrade with a standby');
  const old = stage.servers.at(-1);
  const standby = await startStandby(stage, main);
  await stopServer(stage, old);
  await standby.active;
  await settle(stage);
}

async function upgradeWithoutStandby(stage: Stage): Promise<void> {
  const version = nextVersion(stage.version);
  requireGoing(stage);
  const main = installAs(version, join(stage.folder, `holdfast-${version}`));
  stage.view.event(
    `upgrade 2: version ${stage.version} is shut down, version ${version} starts ${DOWN_MS} ms later`,
  );
  setPhase(stage, `upgrade with the server down for ${DOWN_MS} ms`);
  const [, b = ''] = stage.mounts;
  let nowRunning: () => void = () => {};
  const running = new Promise<void>((resolve) => {
    nowRunning = resolve;
  });
  requireGoing(stage);
  const victim = startChild('victim', WORKER, ['victim', join(b, 'work')], () => nowRunning());
  stage.children.push(victim);
  await Promise.race([running, victim.exited]);
  await stopServer(stage, stage.servers.at(-1));
  await sleep(nodeRuntime().timers, DOWN_MS / 2);
  await untilBlocked(victim);
  const before = performance.now();
  victim.process.kill('SIGINT');
  const { signal } = await victim.exited;
  const tookMs = performance.now() - before;
  if (signal !== 'SIGINT' || tookMs > INTERRUPT_LIMIT_MS) {
    throw new CliError(`the blocked process ended by ${signal ?? 'itself'} after ${tookMs.toFixed(0)} ms`);
  }
  stage.view.event(`a blocked process was ended by SIGINT in ${tookMs.toFixed(1)} ms`);
  await sleep(nodeRuntime().timers, DOWN_MS / 2);
  await startServer(stage, main);
  await settle(stage);
}

/** The newest version takes both mounts over from the oldest, which has mounted them, under the same processes. */
async function takeClientsOver(stage: Stage): Promise<void> {
  const tree = join(stage.folder, `holdfast-${stage.version}`);
  stage.view.event(`upgrade 3: clients of version ${stage.version} take both mounts over`);
  setPhase(stage, 'takeover of both clients');
  for (const mountpoint of stage.mounts) {
    const text = await runInStage(stage, 'takeover', ['takeover', mountpoint, '--with', tree, '--json']);
    const { pid, version, waitedMs } = JSON.parse(text) as TakenOver;
    stage.view.event(
      `process ${pid}, version ${version}, serves ${mountpoint}; calls waited for ${waitedMs.toFixed(0)} ms`,
    );
  }
  await settle(stage);
}

/** Waits until the process is inside a call that waits for the filesystem; ending it earlier would show nothing. */
async function untilBlocked(child: Child): Promise<void> {
  const { timers } = nodeRuntime();
  const deadline = performance.now() + BLOCKED_WITHIN_MS;
  for (;;) {
    const place = readFileSync(`/proc/${child.process.pid}/wchan`, 'latin1');
    if (/request_wait|fuse/.test(place)) return;
    if (performance.now() > deadline) throw new CliError(`${child.name} is not blocked (it is in ${place})`);
    await sleep(timers, 10);
  }
}

async function stopServer(stage: Stage, server: Child | undefined): Promise<void> {
  if (server === undefined) throw new CliError('no server is running');
  const before = performance.now();
  server.process.kill('SIGTERM');
  const { code, signal } = await server.exited;
  if (code !== 0)
    throw new CliError(`the shutdown failed (${signal ?? `status ${code}`}): ${server.stderrTail()}`);
  stage.view.event(`shut down cleanly in ${Math.round(performance.now() - before)} ms`);
}

/** Waits until every worker has done something after the upgrade. */
async function settle(stage: Stage): Promise<void> {
  const marks = stage.workers.map((worker) => worker.report?.operations ?? 0);
  const moved = async (): Promise<void> => {
    while (!stage.workers.every((worker, index) => (worker.report?.operations ?? 0) > (marks[index] ?? 0))) {
      await sleep(nodeRuntime().timers, 20);
    }
  };
  await Promise.race([moved(), workloadFailure(stage)]);
  setPhase(stage, 'steady');
  stage.view.event('every process of the workload goes on');
}

async function verify(stage: Stage): Promise<void> {
  stage.view.event('the workload stops and verifies what it wrote');
  // Stops the contender first: it must not find the locks free because their holder ended.
  const order = [...stage.workers].sort((x) => (x.role === 'lockContender' ? -1 : 0));
  for (const worker of order) {
    worker.child.send({ stop: true });
    if (worker.role === 'lockContender') await worker.child.exited;
  }
  for (const worker of stage.workers) {
    const { code, signal } = await worker.child.exited;
    const errors = worker.report?.errors ?? [];
    if (code !== 0 || errors.length > 0 || worker.report?.done !== true) {
      throw new CliError(
        `${worker.role} failed (${signal ?? `status ${code}`}): ${errors.join('; ')} ${worker.child.stderrTail()}`,
      );
    }
    stage.view.event(`verified: ${worker.report.verified}`);
  }
  for (const mountpoint of [...stage.mounts]) {
    await runInStage(stage, 'umount', ['umount', mountpoint]);
    stage.mounts.splice(stage.mounts.indexOf(mountpoint), 1);
  }
  await stopServer(stage, stage.servers.at(-1));
}

function liveLines(stage: Stage): string[] {
  const lines = [`-- server version ${stage.version}, phase: ${stage.phase}`];
  for (const { role, report } of stage.workers) {
    const longest = report?.longest[stage.phase];
    const pause = longest === undefined ? '' : `longest ${longest.call} ${longest.ms.toFixed(0)} ms`;
    lines.push(`   ${role.padEnd(14)} ${String(report?.operations ?? 0).padStart(9)} operations  ${pause}`);
  }
  return lines;
}

/** Ends the commands while the server is still there: an interrupted command takes away everything that it made. */
async function endCommands({ commands }: Stage): Promise<void> {
  const { timers } = nodeRuntime();
  await Promise.all(
    [...commands].map(async (command) => {
      command.process.kill('SIGTERM');
      const ended = command.exited.then(() => true);
      if (await Promise.race([ended, sleep(timers, COMMAND_ENDS_MS)])) return;
      command.process.kill('SIGKILL');
      await ended;
    }),
  );
}

/** Ends mounts before servers: a process that waits for a server that is gone would keep its mount. */
async function cleanUp(stage: Stage): Promise<void> {
  stage.ended = true;
  stage.over.abort(new CliError('the demo was ended'));
  for (const worker of stage.workers)
    if (worker.child.process.exitCode === null) worker.child.process.kill('SIGKILL');
  for (const child of stage.children) if (child.process.exitCode === null) child.process.kill('SIGKILL');
  await endCommands(stage);
  for (const mountpoint of stage.mounts.filter(isMounted)) {
    await runCommand('umount', stage.main, ['umount', '--force', mountpoint]).catch((thrown: unknown) => {
      process.stderr.write(`holdfast: ${(thrown as Error).message}\n`);
    });
  }
  for (const server of stage.servers) {
    if (server.process.exitCode === null && server.process.signalCode === null)
      server.process.kill('SIGKILL');
    await server.exited.catch(() => undefined);
  }
  if (stage.options.keep === true) process.stdout.write(`kept ${stage.folder}\n`);
  else rmSync(stage.folder, { recursive: true, force: true });
}

function summarize(stage: Stage): void {
  const operations = stage.workers.reduce((sum, { report }) => sum + (report?.operations ?? 0), 0);
  const phases = new Map<string, { call: string; ms: number; role: string }>();
  for (const { role, report } of stage.workers) {
    for (const [phase, longest] of Object.entries(report?.longest ?? {})) {
      const known = phases.get(phase);
      if (known === undefined || known.ms < longest.ms) phases.set(phase, { ...longest, role });
    }
  }
  const lines = [
    '',
    `operations  ${operations} system calls by ${stage.workers.length} processes through 2 mounts`,
    'errors      0',
    ...[...phases]
      .filter(([phase]) => phase !== 'start')
      .map(
        ([phase, { call, ms, role }]) =>
          `longest     ${ms.toFixed(0).padStart(5)} ms  ${call} of ${role}, ${phase}`,
      ),
    'verified    every byte written, every lock, every name; 3 upgrades; 1 blocked process ended by SIGINT',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
