/** Child processes of the demo: starts them, reads their output line by line, ends them by their ids. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { CliError } from '../failure.js';

export interface Child {
  readonly process: ChildProcess;
  readonly name: string;
  /** Exit status, or the name of the signal that ended the process. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** Last lines of stderr, for the message when it fails. */
  readonly stderrTail: () => string;
  send(message: unknown): void;
}

const TAIL_LINES = 20;

/**
 * @param online gets each line of stdout.
 */
export function startChild(
  name: string,
  script: string,
  args: readonly string[],
  online: (line: string) => void,
  env: Readonly<Record<string, string>> = {},
): Child {
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    // A process group of its own: Ctrl-C in the terminal reaches only the demo, which then ends everything in order.
    detached: true,
    env: { ...process.env, ...env },
  });
  const tail: string[] = [];
  createInterface({ input: child.stdout }).on('line', online);
  createInterface({ input: child.stderr }).on('line', (line) => {
    tail.push(line);
    if (tail.length > TAIL_LINES) tail.shift();
  });
  // A write to a child that is gone fails; the caller looks at its exit instead.
  child.stdin.on('error', () => {});
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  return {
    process: child,
    name,
    exited,
    stderrTail: () => tail.join(' | '),
    send: (message) => {
      child.stdin.write(`${JSON.stringify(message)}\n`);
    },
  };
}

/**
 * Runs a command of ours to its end.
 * @param running the set that contains the command while it runs, so that the clean-up can end it.
 * @returns its stdout. @throws CliError with its stderr.
 */
export async function runCommand(
  name: string,
  script: string,
  args: readonly string[],
  running?: Set<Child>,
): Promise<string> {
  const lines: string[] = [];
  const child = startChild(name, script, args, (line) => lines.push(line));
  running?.add(child);
  // The code below awaits it too, and handles a failure.
  child.exited.finally(() => running?.delete(child)).catch(() => undefined);
  child.process.stdin?.end();
  const { code, signal } = await child.exited;
  if (code !== 0) throw new CliError(`${name} failed (${signal ?? `status ${code}`}): ${child.stderrTail()}`);
  return lines.join('\n');
}

/** Starts a child. `ready` resolves with the first line of stdout that matches; it rejects if the child ends before. */
export function startUntilLine(
  name: string,
  script: string,
  args: readonly string[],
  pattern: RegExp,
  online: (line: string) => void = () => {},
): { readonly child: Child; readonly ready: Promise<RegExpExecArray> } {
  let matched: (match: RegExpExecArray) => void = () => {};
  const found = new Promise<RegExpExecArray>((resolve) => {
    matched = resolve;
  });
  const child = startChild(name, script, args, (line) => {
    online(line);
    const match = pattern.exec(line);
    if (match !== null) matched(match);
  });
  const ended = child.exited.then(({ code, signal }): never => {
    throw new CliError(
      `${name} ended (${signal ?? `status ${code}`}) before it was ready: ${child.stderrTail()}`,
    );
  });
  const ready = Promise.race([found, ended]);
  // This promise may reject long after the race is over.
  ended.catch(() => {});
  return { child, ready };
}
