#!/usr/bin/env node
/**
 * mount.holdfast, mount.fuse.holdfast: mount(8) runs them for `mount -t holdfast`, for /etc/fstab, and to remount.
 *   mount.holdfast SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS] [-t TYPE] [-N NAMESPACE]
 * OPTIONS are those of `holdfast mount -o`, or remount and flags (ro, nosuid, ...).
 */

import { CommanderError } from 'commander';
import { parseSource, type Source } from './common.js';
import { keepSecretsOutOfCores } from './core_files.js';
import { CliError, describeFailure, exitWith } from './failure.js';
import { mountHelperCommand } from './helper_commands.js';

/** The parser throws an error of commander, which prints only those of its own parsing: makes it one that we print. */
function sourceOf(text: string): Source {
  try {
    return parseSource(text);
  } catch (cause) {
    throw new CliError((cause as Error).message, 1, { cause });
  }
}

async function run(argv: readonly string[]): Promise<number> {
  const command = mountHelperCommand();
  try {
    command.parse([...argv]);
    const [source = '', mountpoint = ''] = command.args;
    const options = command.opts<{ o: string; f?: boolean }>();
    const words = options.o.split(',').filter((word) => word !== '');
    if (words.includes('remount')) {
      const { remount, remountFlags } = await import('./remount.js');
      const { isForOthers } = await import('../../mount/options.js');
      const flags = remountFlags(words, (word) => isForOthers(word.replace(/=.*/, '')));
      if (options.f !== true) remount(mountpoint, flags);
      return 0;
    }
    const named = sourceOf(source);
    if (options.f === true) {
      const { parseMountOptions } = await import('../../mount/options.js');
      parseMountOptions(options.o, process.getuid?.() === 0);
      return 0;
    }
    const { mount } = await import('./mount_start.js');
    await mount(named, mountpoint, options.o, false);
    return 0;
  } catch (thrown) {
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : 1;
    process.stderr.write(`mount.holdfast: ${describeFailure(thrown).line}\n`);
    // mount(8): 32 is "mount failure".
    return 32;
  }
}

keepSecretsOutOfCores();
exitWith(run(process.argv));
