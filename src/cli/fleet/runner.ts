/**
 * Runs commands on hosts. The runner of a host (`ssh a`) is a line of the shell of this machine; the command is its last argument, as
 * one word, for the shell of the host.
 */

import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import type { Host } from './file.js';

export interface Ran {
  /** null: a signal, or the time limit, ended the runner. */
  readonly status: number | null;
  readonly stdout: string;
  /** The last line of stderr, or why there is none. */
  readonly why: string;
}

/** How long the output of a runner that has ended may still come. */
const PIPES_MS = 2000;
const OUTPUT_MAX_BYTES = 16 << 20;

export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export function commandLine(words: readonly string[]): string {
  return words.map(quoted).join(' ');
}

/**
 * What a program of ours has printed: one line with one object of JSON. A shell that greets, or a runner that says something, may
 * have put lines around it. @returns undefined: there is no such line.
 */
export function lastObject(stdout: string): unknown {
  const line = stdout.split('\n').findLast((one) => one.startsWith('{'));
  if (line === undefined) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    // The caller says whose answer it was.
    return undefined;
  }
}

/** Never rejects: a runner that cannot be started has failed too. */
export function runOn(host: Host, command: string, limitMs: number): Promise<Ran> {
  return new Promise((resolve) => {
    let child: ChildProcessByStdio<null, Readable, Readable>;
    try {
      // In a session of its own: the limit ends what the shell has started too, Ctrl-C does not, and ssh cannot ask for a password.
      child = spawn('/bin/sh', ['-c', `${host.run} "$1"`, 'sh', command], {
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
      });
    } catch (thrown) {
      // The system refuses the words, because they are too long.
      resolve({ status: null, stdout: '', why: (thrown as Error).message });
      return;
    }
    let stdout = '';
    let stderr = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      endGroup(child.pid);
    }, limitMs);
    const finish = (status: number | null, error?: Error): void => {
      clearTimeout(timer);
      child.stdout.destroy();
      child.stderr.destroy();
      const said = stderr.trim().split('\n').at(-1) ?? '';
      const limit = `no end within ${limitMs / 1000} s`;
      const otherwise = status === null ? 'a signal ended it' : `exit status ${status}`;
      const why = late ? limit : (error?.message ?? (said || otherwise));
      resolve({ status: late ? null : status, stdout, why });
    };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (stdout.length < OUTPUT_MAX_BYTES) stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-4096);
    });
    child.once('error', (error) => finish(null, error));
    child.once('close', (status) => finish(status));
    // What a start has put into the background may keep the pipes open.
    child.once('exit', (status) => setTimeout(() => finish(status), PIPES_MS).unref());
  });
}

function endGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (thrown) {
    // It has ended just now.
    if ((thrown as NodeJS.ErrnoException).code !== 'ESRCH') throw thrown;
  }
}
