/**
 * holdfast install: puts files where other programs of this machine look for them: the command itself, the helpers of
 * mount(8) and umount(8), systemd's units, Pacemaker's resource agent.
 *
 * - Links lead into the tree that this command runs from. To install a newer version, run its own `install`.
 * - If a file that is not ours is in the way, the command leaves it and fails before it has changed anything.
 */

import { copyFileSync, lstatSync, mkdirSync, readFileSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { packageRoot } from '../../native/binding.js';
import { CliError } from './failure.js';

interface InstallOptions {
  readonly dryRun?: boolean;
  readonly remove?: boolean;
  readonly prefix: string;
}

interface Item {
  readonly how: 'link' | 'copy';
  /** Path within the tree. */
  readonly from: string;
  readonly to: string;
}

const ITEMS: readonly Item[] = [
  { how: 'link', from: 'dist/bin/main.js', to: '/usr/local/bin/holdfast' },
  { how: 'link', from: 'dist/bin/mount_holdfast.js', to: '/sbin/mount.holdfast' },
  // mount(8) and umount(8) look for a helper by the type that the table of mounts has.
  { how: 'link', from: 'dist/bin/mount_holdfast.js', to: '/sbin/mount.fuse.holdfast' },
  { how: 'link', from: 'dist/bin/umount_holdfast.js', to: '/sbin/umount.fuse.holdfast' },
  {
    how: 'copy',
    from: 'mount/systemd/holdfast-serve@.service',
    to: '/etc/systemd/system/holdfast-serve@.service',
  },
  {
    how: 'copy',
    from: 'mount/systemd/holdfast-mount@.service',
    to: '/etc/systemd/system/holdfast-mount@.service',
  },
  { how: 'copy', from: 'mount/ocf/holdfast', to: '/usr/lib/ocf/resource.d/holdfast/holdfast' },
];

/** The folder of the programs in trees of releases before 0.2.0. */
const BEFORE = 'dist/src/cli/';

type Found = 'nothing' | 'this' | 'ours' | 'foreign';

export function registerInstall(program: Command): void {
  program
    .command('install')
    .description(
      'put the command, the helpers of mount(8) and umount(8), systemd units and the resource agent in their places',
    )
    .option('--dry-run', 'say what install would do')
    .option('--remove', 'take away the files that install has put there')
    .option('--prefix <dir>', 'put everything below this folder, as for a package', '/')
    .action((options: InstallOptions) => install(options));
}

/** @throws CliError if a file that is not ours is in the way; then it has changed nothing. */
export function install({ dryRun = false, remove = false, prefix }: InstallOptions): void {
  const root = packageRoot();
  const plans = ITEMS.map((item) => {
    const to = join(resolve(prefix), item.to);
    const from = join(root, item.from);
    return { item, from, to, found: look(item, from, to) };
  });
  const foreign = plans.find(({ found }) => found === 'foreign');
  if (foreign !== undefined && !remove) {
    throw new CliError(
      `${foreign.to} exists and is not Holdfast's: move it away first; install has changed nothing`,
    );
  }
  for (const { item, from, to, found } of plans) {
    const done = remove ? removed(to, found, dryRun) : placed(item, from, to, found, dryRun);
    process.stdout.write(`${dryRun ? 'would: ' : ''}${done}\n`);
  }
  if (resolve(prefix) === '/' && !dryRun) {
    process.stdout.write('run systemctl daemon-reload, so that systemd reads the units\n');
  }
}

function placed(item: Item, from: string, to: string, found: Found, dryRun: boolean): string {
  if (found === 'this') return `${to}: is there already`;
  if (!dryRun) {
    mkdirSync(dirname(to), { recursive: true });
    rmSync(to, { force: true });
    if (item.how === 'link') symlinkSync(from, to);
    else copyFileSync(from, to);
  }
  const what = item.how === 'link' ? `link to ${from}` : `copy of ${from}`;
  return `${to}: ${what}${found === 'ours' ? ', in place of an earlier one' : ''}`;
}

function removed(to: string, found: Found, dryRun: boolean): string {
  if (found === 'nothing') return `${to}: is not there`;
  if (found === 'foreign') return `${to}: stays, it is not Holdfast's`;
  if (!dryRun) rmSync(to);
  return `${to}: removed`;
}

/** ours: of another tree or version. The target of a link shows it; in a copy, the name Holdfast near the beginning does. */
function look({ how, from: inTree }: Item, from: string, to: string): Found {
  const there = lstatSync(to, { throwIfNoEntry: false });
  if (there === undefined) return 'nothing';
  if (how === 'link') {
    if (!there.isSymbolicLink()) return 'foreign';
    const leadsTo = readlinkSync(to);
    if (leadsTo === from) return 'this';
    // A link that npm made leads to the same file through npm's own folder.
    const isOurs = [inTree, inTree.replace('dist/bin/', BEFORE)].some((path) => leadsTo.endsWith(`/${path}`));
    return isOurs || leadsTo.includes('/holdfast/') ? 'ours' : 'foreign';
  }
  if (!there.isFile()) return 'foreign';
  const content = readFileSync(to, 'utf8');
  if (content === readFileSync(from, 'utf8')) return 'this';
  return /holdfast/i.test(content.slice(0, 500)) ? 'ours' : 'foreign';
}
