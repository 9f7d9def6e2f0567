/** holdfast fleet: upgrades many hosts in order (docs/FLEETS.md). The verbs are in fleet/run.ts. */

import { Argument, type Command } from 'commander';
import { type FleetOptions, VERBS, type Verb } from './fleet/verbs.js';
import { parsePageAddress, wrongPageOptions } from './live/page_address.js';

export function registerFleet(program: Command): void {
  program
    .command('fleet')
    .description('upgrade the servers and clients of many hosts in order, under running programs')
    .argument('<file>', 'what belongs to the fleet (TOML, docs/FLEETS.md)')
    .addArgument(new Argument('[verb]', 'what to do').choices(VERBS))
    .option('--to <version>', 'the version to upgrade to; of check, plan and upgrade')
    .option('--dry-run', 'of upgrade and rollback: only show the steps')
    .option('--json', 'of check, plan and status: one JSON object, of a documented and stable shape')
    .option(
      '--http <address>',
      'instead of a verb: serve a live page for browsers at HOST:PORT or PORT (loopback), until interrupted',
      parsePageAddress,
    )
    .option(
      '--http-key <file>',
      'file with the key of the page, mode 0600: browsers ask for it as a password',
    )
    .action(async (file: string, verb: Verb | undefined, options: FleetOptions, command: Command) => {
      const wrong = wrongTogether(verb, options);
      if (wrong !== undefined) command.error(`error: ${wrong}`, { exitCode: 2 });
      if (verb === undefined) {
        const { showFleet } = await import('./fleet/run.js');
        await showFleet(file, options);
        return;
      }
      const wantsTo = verb === 'check' || verb === 'plan' || verb === 'upgrade';
      if (wantsTo && options.to === undefined)
        command.error(`error: ${verb} needs --to VERSION`, { exitCode: 2 });
      const { runFleet } = await import('./fleet/run.js');
      await runFleet(file, verb, options);
    });
  // What a fleet command runs on the hosts. It looks, and changes nothing.
  program
    .command('fleet-facts', { hidden: true })
    .argument('<wanted>', 'JSON')
    .action(async (wanted: string) => {
      const { facts } = await import('./fleet/facts_run.js');
      process.stdout.write(`${JSON.stringify(await facts(wanted))}\n`);
    });
}

/** @returns what is wrong with these words together. */
function wrongTogether(verb: Verb | undefined, { http, httpKey }: FleetOptions): string | undefined {
  if (verb === undefined && http === undefined) return `missing what to do: ${VERBS.join(', ')}, or --http`;
  if (verb !== undefined && http !== undefined)
    return '--http is without a verb: run it beside the command that upgrades';
  return wrongPageOptions(http, httpKey);
}
