/** What `holdfast completion` and `holdfast man-page` print. The build keeps it in dist/share (build.mjs). */

import { FLAG_OPTIONS, OWN_OPTIONS } from '../../mount/option_list.js';
import { type CommandInfo, commandTree } from './command_tree.js';
import { bashCompletion } from './completion_bash.js';
import { zshCompletion } from './completion_zsh.js';
import { mountHelperCommand } from './helper_commands.js';
import { installedVersion } from './installed.js';
import { holdfastPage, mountPage } from './man_page.js';

const MOUNT_OPTIONS = [...OWN_OPTIONS, ...FLAG_OPTIONS];

export function completionOf(shell: string, tree: CommandInfo): string {
  return shell === 'zsh' ? zshCompletion(tree, MOUNT_OPTIONS) : bashCompletion(tree, MOUNT_OPTIONS);
}

export function manPageOf(page: string, tree: CommandInfo): string {
  // Without the digest: the page of two builds of one version is the same if their commands are.
  const version = installedVersion().replace(/\+.*/, '');
  if (page === 'holdfast') return holdfastPage(tree, MOUNT_OPTIONS, version);
  return mountPage(commandTree(mountHelperCommand()), MOUNT_OPTIONS, version);
}
