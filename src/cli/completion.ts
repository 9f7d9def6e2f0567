/** holdfast completion: prints what makes a shell complete our commands; and, for the build, the man pages. */

import { Argument, type Command } from 'commander';
import { commandTree } from './command_tree.js';

export function registerCompletion(program: Command): void {
  program
    .command('completion')
    .description('print the completion of a shell, for "source <(holdfast completion bash)"')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh']))
    .action(async (shell: string) => {
      const { completionOf } = await import('./pages_run.js');
      process.stdout.write(completionOf(shell, commandTree(program)));
    });
  program
    .command('man-page', { hidden: true })
    .description('print the source of a man page')
    .addArgument(new Argument('<page>').choices(['holdfast', 'mount.holdfast']))
    .action(async (page: string) => {
      const { manPageOf } = await import('./pages_run.js');
      process.stdout.write(manPageOf(page, commandTree(program)));
    });
}
