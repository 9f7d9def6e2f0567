/**
 * holdfast install: puts files where other programs of this machine look for them: the command itself, the helpers of
 * mount(8) and umount(8), systemd's units, Pacemaker's resource agent, the man pages, the completions of the shells.
 *
 * - A tree that was built here is the only one: links lead into it. To install a newer version, run its own `install`.
 * - A tree of a package may have others beside it (side_by_side.ts): links lead through /opt/holdfast, and `install` of a
 *   second version changes nothing. `install --use` takes it into use, which is what `holdfast use VERSION` runs.
 * - If a file that is not ours is in the way, the command leaves it and fails before it has changed anything.
 * - What could pull the tree away under a running process, or leave the link without a tree, is refused.
 */

import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { packageRoot } from '../../native/binding.js';
import { CliError } from './failure.js';
import { installedVersion } from './installed.js';
import { isPacked, linkBeside, processesOf, switchLink, textOf, treeInUse, treesIn } from './side_by_side.js';

interface InstallOptions {
  readonly dryRun?: boolean;
  readonly remove?: boolean;
  readonly use?: boolean;
  readonly quiet?: boolean;
  readonly prefix: string;
}

/** keep: a copy that the operator may change, so a later install leaves it as it is. */
interface Item {
  readonly how: 'link' | 'copy' | 'keep';
  /** Path within the tree. */
  readonly from: string;
  readonly to: string;
}

const AGENT = '/usr/lib/ocf/resource.d/holdfast/holdfast';
const UNITS = ['holdfast-serve@.service', 'holdfast-mount@.service', 'holdfast-unmount@.service'];
const MAN_PAGES = ['holdfast.8', 'mount.holdfast.8'];

/** Units and the agent are copies: whoever reads them at boot may do so before /opt is mounted. */
function itemsOf(packed: boolean): readonly Item[] {
  const [program, mountHelper, umountHelper] = packed
    ? ['bin/holdfast', 'bin/mount.holdfast', 'bin/umount.holdfast']
    : ['dist/bin/main.js', 'dist/bin/mount_holdfast.js', 'dist/bin/umount_holdfast.js'];
  // A package leaves /usr/local and /etc/systemd to the administrator. Users without root mount too, so /usr/bin, not /usr/sbin.
  const share = packed ? '/usr/share' : '/usr/local/share';
  return [
    { how: 'link', from: program, to: packed ? '/usr/bin/holdfast' : '/usr/local/bin/holdfast' },
    { how: 'link', from: mountHelper, to: '/sbin/mount.holdfast' },
    // mount(8) and umount(8) look for a helper by the type that the table of mounts has.
    { how: 'link', from: mountHelper, to: '/sbin/mount.fuse.holdfast' },
    { how: 'link', from: umountHelper, to: '/sbin/umount.fuse.holdfast' },
    ...UNITS.map((name): Item => {
      const folder = packed ? '/usr/lib/systemd/system' : '/etc/systemd/system';
      return { how: 'copy', from: `mount/systemd/${name}`, to: `${folder}/${name}` };
    }),
    { how: 'copy', from: 'mount/ocf/holdfast', to: AGENT },
    { how: 'keep', from: 'mount/logrotate/holdfast', to: '/etc/logrotate.d/holdfast' },
    ...MAN_PAGES.map(
      (name): Item => ({
        how: 'link',
        from: `dist/share/man/man8/${name}`,
        to: `${share}/man/man8/${name}`,
      }),
    ),
    {
      how: 'link',
      from: 'dist/share/completion/holdfast',
      to: `${share}/bash-completion/completions/holdfast`,
    },
    {
      how: 'link',
      from: 'dist/share/completion/_holdfast',
      to: `${share}/zsh/${packed ? 'vendor-completions' : 'site-functions'}/_holdfast`,
    },
  ];
}

/** Folders of programs that may not be installed here: they go with what install has put there, if nothing else is in them. */
const FOLDERS_OF_OTHERS = [
  dirname(AGENT),
  '/usr/lib/ocf/resource.d',
  '/usr/lib/ocf',
  ...['/usr/share', '/usr/local/share'].flatMap((share) => [
    `${share}/zsh/vendor-completions`,
    `${share}/zsh/site-functions`,
    `${share}/zsh`,
    `${share}/bash-completion/completions`,
    `${share}/bash-completion`,
  ]),
];

/** The folder of the programs in trees of releases before 0.2.0. */
const BEFORE = 'dist/src/cli/';

type Found = 'nothing' | 'this' | 'ours' | 'foreign';

interface Plan {
  readonly item: Item;
  /** In this tree. */
  readonly source: string;
  /** What a link says: `source`, or the same file by way of the link that says which version is in use. */
  readonly leadsTo: string;
  readonly to: string;
  readonly found: Found;
}

export function registerInstall(program: Command): void {
  program
    .command('install')
    .description(
      'put the command, the helpers of mount(8) and umount(8), systemd units, the resource agent, man pages and completions in their places',
    )
    .option('--dry-run', 'say what install would do')
    .option('--use', 'of a package: take this version into use if another one is; see "holdfast use"')
    .option('--remove', 'take away the files that install has put there')
    .option('--quiet', 'say only which version is in use')
    .option('--prefix <dir>', 'put everything below this folder, as for a package', '/')
    .action((options: InstallOptions) => install(options));
}

/** @throws CliError if a file that is not ours is in the way; then it has changed nothing. */
export function install(options: InstallOptions): void {
  const { remove = false, use = false, dryRun = false, prefix } = options;
  const root = packageRoot();
  const packed = isPacked(root);
  if (use && !packed) throw new CliError(`${root} is no package: --use is for versions side by side`);
  const link = join(resolve(prefix), linkBeside(root));
  const current = packed ? treeInUse(link, dirname(root)) : undefined;
  const isOther = current !== undefined && current !== root;
  if (packed && remove) refuseRemoval(root, current);
  if (isOther && !use) {
    const next = remove
      ? 'nothing to take away'
      : `it stays, until "holdfast use ${plainVersion(root)}" changes that`;
    process.stdout.write(`${link}: ${basename(current)} is in use; ${next}\n`);
    return;
  }
  const plans = plansOf(root, resolve(prefix), packed);
  if (!remove) refuseForeign(plans, packed ? link : undefined);
  if (packed && !remove) {
    if (!dryRun) switchLink(link, root);
    process.stdout.write(`${dryRun ? 'would: ' : ''}${link}: ${basename(root)} is in use\n`);
  }
  const unitsChanged = carryOut(plans, options);
  if (remove && !dryRun) removeEmpty(FOLDERS_OF_OTHERS.map((path) => join(resolve(prefix), path)));
  if (packed && remove) {
    if (!dryRun) rmSync(link, { force: true });
    process.stdout.write(`${dryRun ? 'would: ' : ''}${link}: removed, no version is in use\n`);
  }
  if (unitsChanged && resolve(prefix) === '/' && !dryRun) reloadUnits();
}

/** If systemd is what runs this machine. */
function reloadUnits(): void {
  if (!existsSync('/run/systemd/system')) return;
  const { status } = spawnSync('systemctl', ['daemon-reload'], { stdio: 'inherit' });
  if (status !== 0) {
    process.stdout.write('run systemctl daemon-reload, so that systemd reads the units\n');
  }
}

/** @returns whether a unit of systemd was changed. */
function carryOut(plans: readonly Plan[], { dryRun = false, remove = false, quiet = false }: InstallOptions) {
  let unitsChanged = false;
  for (const plan of plans) {
    const done = remove ? removed(plan, dryRun) : placed(plan, dryRun);
    if (!quiet) process.stdout.write(`${dryRun ? 'would: ' : ''}${done}\n`);
    if (plan.to.endsWith('.service') && (remove || plan.found !== 'this')) unitsChanged = true;
  }
  return unitsChanged;
}

function plansOf(root: string, prefix: string, packed: boolean): Plan[] {
  const way = packed ? linkBeside(root) : root;
  return itemsOf(packed).map((item) => {
    const to = join(prefix, item.to);
    const source = join(root, item.from);
    const leadsTo = join(way, item.from);
    return { item, source, leadsTo, to, found: look(item, source, leadsTo, to) };
  });
}

function refuseForeign(plans: readonly Plan[], link: string | undefined): void {
  const foreign = plans.find(({ found }) => found === 'foreign');
  if (foreign !== undefined) {
    throw new CliError(
      `${foreign.to} exists and is not Holdfast's: move it away first; install has changed nothing`,
    );
  }
  const missing = plans.find(({ source }) => !existsSync(source));
  if (missing !== undefined) {
    const how = link === undefined ? 'run "npm run build"' : 'unpack the package again';
    throw new CliError(`${missing.source} is not there: ${how}; install has changed nothing`);
  }
}

function refuseRemoval(root: string, current: string | undefined): void {
  const running = processesOf(root);
  if (running.length > 0) {
    throw new CliError(
      `${basename(root)} stays: ${textOf(running)} ${running.length > 1 ? 'run' : 'runs'} from it; end ${
        running.length > 1 ? 'them' : 'it'
      } first, or upgrade to another version`,
    );
  }
  const others = treesIn(dirname(root)).filter(({ path }) => path !== root);
  const other = others.at(-1);
  if (current !== root || other === undefined) return;
  throw new CliError(
    `${basename(root)} stays: it is in use; "holdfast use ${plainVersion(other.path)}" first`,
  );
}

/** Without the digest: as packages and folders are named. */
function plainVersion(root: string): string {
  return installedVersion(root).replace(/\+.*/, '');
}

function placed({ item, source, leadsTo, to, found }: Plan, dryRun: boolean): string {
  if (found === 'this') return `${to}: is there already`;
  if (found === 'ours' && item.how === 'keep') return `${to}: stays as it is`;
  if (!dryRun) {
    mkdirSync(dirname(to), { recursive: true });
    // By rename: whoever starts a program or reads a unit meanwhile finds the old file or the new one.
    const made = `${to}.${process.pid}`;
    rmSync(made, { force: true });
    if (item.how === 'link') symlinkSync(leadsTo, made);
    else copyFileSync(source, made);
    renameSync(made, to);
  }
  const what = item.how === 'link' ? `link to ${leadsTo}` : `copy of ${source}`;
  return `${to}: ${what}${found === 'ours' ? ', in place of an earlier one' : ''}`;
}

function removed({ item, to, found }: Plan, dryRun: boolean): string {
  if (found === 'nothing') return `${to}: is not there`;
  if (found === 'foreign') return `${to}: stays, it is not Holdfast's`;
  if (item.how === 'keep' && found === 'ours') return `${to}: stays, it was changed`;
  if (!dryRun) rmSync(to);
  return `${to}: removed`;
}

function removeEmpty(folders: readonly string[]): void {
  for (const path of folders.filter((one) => existsSync(one))) {
    if (readdirSync(path).length === 0) rmdirSync(path);
  }
}

/** ours: of another tree or version. The target of a link shows it; in a copy, the name Holdfast near the beginning does. */
function look({ how, from: inTree }: Item, source: string, leadsTo: string, to: string): Found {
  const there = lstatSync(to, { throwIfNoEntry: false });
  if (there === undefined) return 'nothing';
  if (how === 'link') {
    if (!there.isSymbolicLink()) return 'foreign';
    const target = readlinkSync(to);
    if (target === leadsTo) return 'this';
    // A link that npm made leads to the same file through npm's own folder.
    const isOurs = [inTree, inTree.replace('dist/bin/', BEFORE)].some((path) => target.endsWith(`/${path}`));
    return isOurs || /\/holdfast(?:-[^/]+)?\//.test(target) ? 'ours' : 'foreign';
  }
  if (!there.isFile()) return 'foreign';
  const content = readFileSync(to, 'utf8');
  if (existsSync(source) && content === readFileSync(source, 'utf8')) return 'this';
  return /holdfast/i.test(content.slice(0, 500)) ? 'ours' : 'foreign';
}
