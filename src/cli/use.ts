/**
 * holdfast use: which of the versions that are installed side by side programs start from now on. It changes one link, and lets
 * the new version put its own files in their places (install.ts). Processes that run go on with the version that they have.
 */

import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import type { Command } from 'commander';
import { packageRoot } from '../../native/binding.js';
import { CliError } from './failure.js';
import { isPacked, linkBeside, processesOf, textOf, treeInUse, treesIn } from './side_by_side.js';

export function registerUse(program: Command): void {
  program
    .command('use')
    .description(
      'say which installed version is started from now on; without a version, show those that are installed',
    )
    .argument('[version]')
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action((version: string | undefined, options: { readonly json?: boolean }) => {
      const root = packageRoot();
      if (!isPacked(root)) {
        throw new CliError(
          `${root} is no package, so it has no other versions beside it: "npm run package" makes packages (docs/INSTALL.md)`,
        );
      }
      if (version === undefined) show(root, options.json === true);
      else use(root, version);
    });
}

interface Shown {
  readonly version: string;
  readonly path: string;
  readonly inUse: boolean;
  readonly processes: readonly { readonly pid: number; readonly command: string }[];
}

function show(root: string, json: boolean): void {
  const current = treeInUse(linkBeside(root));
  const versions: Shown[] = treesIn(dirname(root)).map(({ path, version }) => ({
    version,
    path,
    inUse: path === current,
    processes: processesOf(path),
  }));
  if (json) {
    process.stdout.write(`${JSON.stringify({ versions })}\n`);
    return;
  }
  for (const { version, path, inUse, processes } of versions) {
    const running = processes.length === 0 ? '' : `  runs: ${textOf(processes)}`;
    process.stdout.write(`${inUse ? '*' : ' '} ${version}  ${path}${running}\n`);
  }
}

function use(root: string, wanted: string): void {
  const installed = treesIn(dirname(root));
  const tree = installed.find(({ version }) => version === wanted || version.replace(/\+.*/, '') === wanted);
  if (tree === undefined) {
    const others = installed.map(({ version }) => version.replace(/\+.*/, '')).join(', ');
    throw new CliError(`version ${wanted} is not installed in ${dirname(root)}; there are: ${others}`);
  }
  // The new version knows which files it has. It has said why if it could not.
  const { status, signal, error } = spawnSync(
    join(tree.path, 'bin', 'holdfast'),
    ['install', '--use', '--quiet'],
    {
      stdio: 'inherit',
    },
  );
  if (status !== 0) {
    const reason = error?.message ?? signal ?? `its install ended with status ${status}`;
    throw new CliError(`${tree.path} is not in use: ${reason}`, 1, { cause: error });
  }
}
