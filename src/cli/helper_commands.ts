/** The command lines of the helpers that mount(8) and umount(8) run, for the helpers themselves and for their man page. */

import { Command } from 'commander';

export function mountHelperCommand(): Command {
  return new Command('mount.holdfast')
    .argument('<source>', 'LABEL, unix:/PATH, or [LABEL@]HOST:PORT[,HOST:PORT...]')
    .argument('<mountpoint>')
    .option('-s', 'accepted, without effect')
    .option('-f', 'fake: check the arguments only')
    .option('-n', 'accepted, without effect')
    .option('-v', 'accepted, without effect')
    .option('-t <type>', 'accepted, without effect')
    .option('-N <namespace>', 'accepted, without effect: mount(8) has entered it')
    .option('-o <options>', 'mount options', '')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'mount.holdfast: ')) })
    .exitOverride();
}

export function umountHelperCommand(): Command {
  return new Command('umount.fuse.holdfast')
    .argument('<mountpoint>')
    .option('-f', 'force: data that cannot be written is lost')
    .option('-l', 'lazy: detach now, write when the last file is closed')
    .option('-r', 'make it read-only if it is in use')
    .option('-n', 'accepted, without effect')
    .option('-v', 'accepted, without effect')
    .option('-t <type>', 'accepted, without effect')
    .option('-N <namespace>', 'accepted, without effect: umount(8) has entered it')
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'umount.fuse.holdfast: ')),
    })
    .exitOverride();
}
