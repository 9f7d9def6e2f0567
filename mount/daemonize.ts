/**
 * A process that stays in the background: started again as a detached child, which says through a pipe when it is ready
 * or why it is not. No fork of a running event loop, and the starter's exit status and message are the child's.
 *
 * The pipe is descriptor 3 of the child; it carries JSON lines: what the child waits for, which goes to stderr, and last its
 * report. A child that ends without one has failed too.
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
/** What it is doing meanwhile. */
type Said = { readonly says: string };

export interface BackgroundOptions {
  /** Script and arguments, as after `node`. Paths must be absolute: the child runs in /. */
  readonly argv: readonly string[];
  /** Receives what the child writes; appended to. Falls back to the folder for temporary files. */
  readonly logPath: string;
  readonly env?: NodeJS.ProcessEnv;
}

export interface Background {
  readonly pid: number;
  readonly logPath: string;
}

/** The child's own words for why it is not ready, and the exit status it wants. */
export class BackgroundFailure extends FsError {
  override name = 'BackgroundFailure';
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super('EIO', message);
    this.exitCode = exitCode;
  }
}

/**
 * Starts the child and resolves when it has said that it is ready; it then lives on by itself.
 * @throws BackgroundFailure
 */
export async function startInBackground(options: BackgroundOptions): Promise<Background> {
  const { fd: logFd, path: logPath } = openLog(options.logPath);
  const child = spawn(process.execPath, [...process.execArgv, ...options.argv], {
    detached: true, // a session of its own: signals of the terminal do not reach it
    cwd: '/', // keeps no directory busy
    stdio: ['ignore', logFd, logFd, 'pipe'],
    env: { ...process.env, ...options.env, [ENV_NAME]: String(REPORT_FD) },
  });
  closeSync(logFd);
  // Whoever interrupts the start does not want to find a mount later.
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
    // What the last mount there has written is kept once, so that logs do not grow from mount to mount.
    if (existsSync(wanted)) renameSync(wanted, `${wanted}.old`);
    return { fd: openSync(wanted, 'a', 0o600), path: wanted };
  } catch {
    // A read-only or full /run is no reason not to mount.
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
    // Both, so that the message has the exit status: the pipe may end first.
    pipe.once('end', () => {
      if (text.includes('\n')) return;
      if (child.exitCode !== null || child.signalCode !== null) finish();
      else child.once('exit', finish);
    });
  });
}

export interface Reporter {
  /** @param line what it is waiting for. */
  says(line: string): void;
  ready(): void;
  /** @param line why not, one line. */
  failed(line: string, exitCode: number): void;
  /** @param listener called when the starter has ended without the report: nobody wants what is being started. */
  onStarterGone(listener: () => void): void;
}

/** In the child: how to tell the starter; undefined in a process that nobody started in the background. Call once. */
export function backgroundReporter(): Reporter | undefined {
  if (process.env[ENV_NAME] === undefined) return undefined;
  // Children of this process have nothing to report.
  delete process.env[ENV_NAME];
  let gone: () => void = () => undefined;
  // Nothing comes through it but its end.
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

/** A mount that ended in order and said nothing leaves no log. */
export function removeEmptyLog(path: string): void {
  try {
    if (statSync(path).size === 0) unlinkSync(path);
  } catch {
    // It is in the folder for temporary files, or somebody has removed it: nothing is left to do.
  }
}
