#!/usr/bin/env node
/**
 * umount.fuse.holdfast: umount(8) runs it for our mounts. So umount(8), systemctl stop of a mount unit and a reboot return
 * when everything is on the server.
 *   umount.fuse.holdfast MOUNTPOINT [-flnrv] [-t TYPE] [-N NAMESPACE]
 * -f gives up data that cannot be written, -l detaches now, -r makes a mount that is in use read-only instead.
 */

import { CommanderError } from 'commander';
import { FsError } from '../base/errno.js';
import { describeFailure, exitWith } from './failure.js';
import { umountHelperCommand } from './helper_commands.js';
import { remount } from './remount.js';

interface Options {
  readonly f?: boolean;
  readonly l?: boolean;
  readonly r?: boolean;
}

async function run(argv: readonly string[]): Promise<number> {
  const command = umountHelperCommand();
  try {
    command.parse([...argv]);
    const [mountpoint = ''] = command.args;
    const { f, l, r } = command.opts<Options>();
    const { unmount } = await import('./umount_run.js');
    try {
      await unmount(mountpoint, l === true ? 'lazy' : f === true ? 'force' : 'flush');
    } catch (thrown) {
      if (r !== true || !(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
      remount(mountpoint, ['ro']);
      process.stderr.write(`umount.fuse.holdfast: ${mountpoint} is in use: it is read-only now\n`);
    }
    return 0;
  } catch (thrown) {
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : 1;
    process.stderr.write(`umount.fuse.holdfast: ${describeFailure(thrown).line}\n`);
    // umount(8): 32 is "umount failed".
    return 32;
  }
}

exitWith(run(process.argv));
