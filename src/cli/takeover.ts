/** holdfast takeover: another process, of this or another version, serves a mount from now on, under the running programs. */

import type { Command } from 'commander';
import { secondsOption } from './common.js';

export function registerTakeover(program: Command): void {
  program
    .command('takeover')
    .description(
      'put a client of this version in charge of a mount; programs go on, their calls wait for a moment',
    )
    .argument('<mountpoint>')
    .option(
      '--with <dir>',
      'the version in this folder, as /opt/holdfast-VERSION; default: the one of this command',
    )
    .option('-o <options>', 'mount options from then on; default: those of now')
    .addOption(
      secondsOption(
        '--patience <seconds>',
        'how long calls may wait; then everything stays as it is',
        30_000,
      ),
    )
    .option('--json', 'for programs')
    .action(
      async (path: string, options: { with?: string; o?: string; patience: number; json?: boolean }) => {
        const { requestTakeover } = await import('./takeover_request.js');
        const done = await requestTakeover(path, {
          tree: options.with,
          options: options.o,
          patienceMs: options.patience,
        });
        if (options.json === true) {
          process.stdout.write(`${JSON.stringify(done)}\n`);
          return;
        }
        const { pid, version, versionBefore, waitedMs } = done;
        process.stdout.write(
          `holdfast: ${version} (process ${pid}) serves ${path} now, before it was ${versionBefore}; ` +
            `calls waited for ${Math.ceil(waitedMs)} ms\n`,
        );
      },
    );
}
