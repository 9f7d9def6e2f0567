/** holdfast capabilities: what this version reads, writes and speaks. It touches nothing. */

import type { Command } from 'commander';

export function registerCapabilities(program: Command): void {
  program
    .command('capabilities')
    .description('show what this version speaks, which disk formats it reads, and what it wants of its peers')
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action(async (options: { readonly json?: boolean }) => {
      const { capabilities, capabilitiesText } = await import('./capabilities_run.js');
      const found = capabilities();
      process.stdout.write(`${options.json === true ? JSON.stringify(found) : capabilitiesText(found)}\n`);
    });
}
