#!/usr/bin/env node
/**
 * The holdfast command. Each command is a file beside this one. It registers itself, and loads the code that it runs only
 * when the user chooses it: `holdfast status` does not load the server.
 *
 * Exit status: 0 done, 1 failed (one line on stderr says why and what to do), 2 usage; fsck has the statuses of fsck(8).
 */

import { Command, CommanderError } from 'commander';
import { registerAccess } from './access.js';
import { registerCapabilities } from './capabilities.js';
import { registerCompletion } from './completion.js';
import { keepSecretsOutOfCores } from './core_files.js';
import { registerDemo } from './demo.js';
import { registerEvict } from './evict.js';
import { describeFailure, exitWith } from './failure.js';
import { registerFleet } from './fleet.js';
import { FSCK_USAGE, registerFsck } from './fsck.js';
import { registerGrow } from './grow.js';
import { registerInstall } from './install.js';
import { installedVersion } from './installed.js';
import { registerMetrics } from './metrics.js';
import { registerMkfs } from './mkfs.js';
import { registerMount } from './mount.js';
import { registerServe } from './serve.js';
import { registerShutdown } from './shutdown.js';
import { registerStatus } from './status.js';
import { registerTakeover } from './takeover.js';
import { registerTop } from './top.js';
import { registerUmount } from './umount.js';
import { registerUse } from './use.js';

function buildProgram(): Command {
  const program = new Command('holdfast');
  program
    .description('A POSIX filesystem whose servers can be upgraded under running applications.')
    .version(installedVersion(), '-V, --version')
    .addHelpText(
      'after',
      '\nThe first filesystem: holdfast mkfs, serve, mount, in this order; each shows its options with --help.',
    )
    // Not for --help and --version, which load nothing.
    .hook('preAction', keepSecretsOutOfCores)
    .exitOverride();
  for (const register of [
    registerMkfs,
    registerServe,
    registerMount,
    registerUmount,
    registerTakeover,
    registerStatus,
    registerMetrics,
    registerTop,
    registerShutdown,
    registerEvict,
    registerAccess,
    registerFsck,
    registerGrow,
    registerInstall,
    registerUse,
    registerCapabilities,
    registerFleet,
    registerCompletion,
    registerDemo,
  ]) {
    register(program);
  }
  for (const command of program.commands.flatMap((one) => [one, ...one.commands])) {
    command.exitOverride().copyInheritedSettings(program);
  }
  for (const command of [program, ...program.commands.flatMap((one) => [one, ...one.commands])]) {
    command.configureOutput({ outputError: (text, write) => write(`${usageError(text, command)}\n`) });
  }
  return program;
}

/** One line: what is wrong with the words of the command line, and where the right ones are. */
function usageError(text: string, command: Command): string {
  const wrong = text
    .trim()
    .replace(/^error: /, '')
    .replace(/\n\((Did you mean .*\?)\)$/, (_, question: string) => `; ${question.replace('Did', 'did')}`)
    .replace(/\.$/, '');
  const names: string[] = [];
  for (let one: Command | null = command; one !== null; one = one.parent) names.unshift(one.name());
  return `holdfast: ${wrong}${wrong.endsWith('?') ? ' See' : '; see'} ${names.join(' ')} --help`;
}

/** @param argv as process.argv. @returns the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const [node = '', file = '', first, ...rest] = argv;
    const words = first === undefined ? [] : [first === '--capabilities' ? 'capabilities' : first, ...rest];
    await buildProgram().parseAsync([node, file, ...words]);
    return 0;
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      // commander has printed the error; help and version are no failures.
      if (thrown.exitCode === 0 || thrown.code === 'commander.helpDisplayed') return 0;
      return argv[2] === 'fsck' ? FSCK_USAGE : 2;
    }
    const { line, exitCode } = describeFailure(thrown);
    process.stderr.write(`holdfast: ${line}\n`);
    if (process.env.DEBUG?.includes('holdfast') && thrown instanceof Error)
      process.stderr.write(`${thrown.stack}\n`);
    return exitCode;
  }
}

// The reader of our output has seen enough, as in `holdfast status | head -1`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});
exitWith(main(process.argv));
