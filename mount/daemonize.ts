/**
 * A process that stays in the background. The starter runs the program again as a detached child, which says through a
 * pipe when it is ready or why it is not. So no running event loop is forked, and the starter exits with the child's
 * status and message.
 *
 * The pipe is descriptor 3 of the child. It carries JSON lines: what the child waits for, which the starter writes to
 * stderr, and last the child's report. A child that ends without a report has failed too.
 */

import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { FsError } from '../src/base/errno.js';

const REPORT_FD = 3;
const ENV_NAME = 'HOLDFAST_REPORT_FD';
const ENDING = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;

type Report = { readonly ready: true } | { readonly error: string; readonly exitCode: number };
/** What the child is doing meanwhile. */
type Said = { readonly says: string };

export interface BackgroundOptions {
  /** Script and arguments, as they follow `node`. Paths must be absolute, because the child runs in /. */
  readonly argv: readonly string[];
  /** The log that gets the child's output. If it cannot be made, the log is in the folder for temporary files. */
  readonly logPath: string;
  readonly env?: NodeJS.ProcessEnv;
}

export interface Background {
  readonly pid: number;
  readonly logPath: string;
}

/** Why the child is not ready, in its own words, and the exit status that it asks for. */
export class BackgroundFailure extends FsError {
  override name = 'BackgroundFailure';
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super('EIO', message);
    this.exitCode = exitCode;
  }
}

/**
 * Starts the child and resolves when the child has said that it is ready. The child then lives on by itself.
 * @throws BackgroundFailure
 */
export async function startInBackground(options: BackgroundOptions): Promise<Background> {
  const { fd: logFd, path: logPath } = openLog(options.logPath);
  const child = spawn(process.execPath, [...process.execArgv, ...options.argv], {
    detached: true, // the child gets its own session: signals of the terminal do not reach it
    cwd: '/', // so the child keeps no directory busy
    stdio: ['ignore', logFd, logFd, 'pipe'],
    env: { ...process.env, ...options.env, [ENV_NAME]: String(REPORT_FD) },
  });
  closeSync(logFd);
  // A user who interrupts the start does not want to find a mount later.
  const passOn = (): void => void child.kill('SIGTERM');
  for (const name of ENDING) process.on(name, passOn);
  const report = await readReport(child, logPath).finally(() => {
    for (const name of ENDING) process.off(name, passOn);
  });
  if ('error' in report) throw new BackgroundFailure(report.error, report.exitCode);
  child.unref();
  return { pid: child.pid ?? 0, logPath };
}

function openLog(wanted: string): { readonly fd: number; readonly path: string } {
  try {
    mkdirSync(dirname(wanted), { recursive: true, mode: 0o700 });
    // Only the log of the mount before is kept, so that logs do not grow from mount to mount.
    if (existsSync(wanted)) renameSync(wanted, `${wanted}.old`);
    return { fd: openSync(wanted, 'a', 0o600), path: wanted };
  } catch {
    // The mount must not fail because /run is read-only or full.
    const path = join(tmpdir(), `holdfast-${process.getuid?.() ?? 0}-${basename(wanted)}`);
    return { fd: openSync(path, 'a', 0o600), path };
  }
}

function readReport(child: ReturnType<typeof spawn>, logPath: string): Promise<Report> {
  return new Promise((resolve, reject) => {
    const pipe = child.stdio[REPORT_FD];
    if (pipe === null || pipe === undefined || !('setEncoding' in pipe)) {
      reject(new BackgroundFailure('cannot make a pipe to the background process', 1));
      return;
    }
    let text = '';
    let status = '';
    child.once('error', (error) => {
      reject(new BackgroundFailure(`cannot start the background process: ${error.message}`, 1));
    });
    child.once('exit', (code, signal) => {
      status = signal ?? `status ${code}`;
    });
    const finish = (): void => {
      pipe.destroy();
      const line = text.split('\n')[0] ?? '';
      if (line !== '') resolve(JSON.parse(line) as Report);
      else
        resolve({
          error: `the background process ended before it was ready (${status}); see ${logPath}`,
          exitCode: 1,
        });
    };
    pipe.setEncoding('utf8');
    pipe.on('data', (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const { says } = JSON.parse(text.slice(0, end)) as Partial<Said>;
        if (says === undefined) {
          finish();
          return;
        }
        process.stderr.write(`holdfast: ${says}\n`);
        text = text.slice(end + 1);
      }
    });
    // Waits for the child's exit too, so that the message has its status: the pipe may end first.
    pipe.once('end', () => {
      if (text.includes('\n')) return;
      if (child.exitCode !== null || child.signalCode !== null) finish();
      else child.once('exit', finish);
    });
  });
}

export interface Reporter {
  /** @param line what the child waits for. */
  says(line: string): void;
  ready(): void;
  /** @param line why the child is not ready, in one line. */
  failed(line: string, exitCode: number): void;
  /** @param listener called when the starter has ended before it got the report: nobody needs this process any more. */
  onStarterGone(listener: () => void): void;
}

/** Whether startInBackground() started this process, and backgroundReporter() was not called yet. */
export function isBackgroundProcess(): boolean {
  return process.env[ENV_NAME] !== undefined;
}

/** For the child: reports to the starter. undefined in a process that was not started in the background. Call once. */
export function backgroundReporter(): Reporter | undefined {
  if (!isBackgroundProcess()) return undefined;
  // Children of this process must not report.
  delete process.env[ENV_NAME];
  let gone: () => void = () => undefined;
  // The pipe brings nothing but its end.
  const pipe = new Socket({ fd: REPORT_FD, readable: true, writable: false });
  pipe.on('error', () => undefined);
  pipe.once('end', () => gone());
  pipe.resume();
  pipe.unref();
  const write = (report: Report | Said): void => {
    try {
      writeSync(REPORT_FD, `${JSON.stringify(report)}\n`);
    } catch {
      gone();
    }
  };
  const send = (report: Report): void => {
    write(report);
    pipe.removeAllListeners('end');
    pipe.destroy();
  };
  return {
    says: (says) => write({ says }),
    ready: () => send({ ready: true }),
    failed: (error, exitCode) => send({ error, exitCode }),
    onStarterGone: (listener) => {
      gone = listener;
    },
  };
}

/** Removes the log of a mount that ended in order and wrote nothing. */
export function removeEmptyLog(path: string): void {
  try {
    if (statSync(path).size === 0) unlinkSync(path);
  } catch {
    // The log is in the folder for temporary files, or somebody has removed it.
  }
}
