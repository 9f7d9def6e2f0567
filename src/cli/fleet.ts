/** holdfast fleet: upgrades many hosts in order (docs/FLEETS.md). The verbs are in fleet/run.ts. */

import { Argument, type Command } from 'commander';
import { type FleetOptions, VERBS, type Verb } from './fleet/verbs.js';

export function registerFleet(program: Command): void {
  program
    .command('fleet')
    .description('upgrade the servers and clients of many hosts in order, under running programs')
    .argument('<file>', 'what belongs to the fleet (TOML, docs/FLEETS.md)')
    .addArgument(new Argument('<verb>', 'what to do').choices(VERBS))
    .option('--to <version>', 'the version to upgrade to; of check, plan and upgrade')
    .option('--dry-run', 'of upgrade and rollback: only show the steps')
    .option('--json', 'of check, plan and status: one JSON object, of a documented and stable shape')
    .action(async (file: string, verb: Verb, options: FleetOptions, command: Command) => {
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
