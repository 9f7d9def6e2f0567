/** How a command fails: with one line for the user and an exit status. */

import { FsError } from '../base/errno.js';
import { printable } from '../base/printable.js';
import { nameSourcesInStacks } from './stack_traces.js';

/** A failure the user can act on: one line, exit status 1 (2: the command line itself is wrong). */
export class CliError extends Error {
  override name = 'CliError';
  readonly exitCode: number;
  constructor(message: string, exitCode = 1, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** Makes one line for people of any thrown value, and the exit status that goes with it. */
export function describeFailure(thrown: unknown): { readonly line: string; readonly exitCode: number } {
  if (thrown instanceof Error) {
    // By its field, not its class: a command that is a bundle of its own (bundle.mjs) has its own CliError.
    const exitCode = 'exitCode' in thrown && typeof thrown.exitCode === 'number' ? thrown.exitCode : 1;
    // Not an error of ours: a bug, or a message of the system. Only the log gets the stack.
    return { line: oneLine(thrown.message), exitCode };
  }
  return { line: oneLine(String(thrown)), exitCode: 1 };
}

/** @param thrown a server's refusal: it begins with the name of the message, which tells a user nothing. @returns it without. */
export function plain(thrown: unknown): unknown {
  if (!(thrown instanceof FsError)) return thrown;
  return new FsError(thrown.code, thrown.message.replace(/^[A-Z_]+: /, ''), { cause: thrown });
}

/** Exit status of a process that ends before its program does, because nothing is left that could wake the program. */
const UNFINISHED = 13;

/**
 * Ends the process with the status that its program returns. Stack traces name sources from here on. A program does not await
 * this at its top level, because users run it as CommonJS (bundle.mjs), which has no such await.
 */
export function exitWith(status: Promise<number>): void {
  nameSourcesInStacks();
  process.exitCode = UNFINISHED;
  void status.then((code) => {
    process.exitCode = code;
  });
}

function oneLine(text: string): string {
  return printable(text).trim();
}
