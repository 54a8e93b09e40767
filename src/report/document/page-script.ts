/** The page's script: a filter over the runs, and folded parts that open when a link leads into them. The page reads without it. */
export const PAGE_SCRIPT = `
(() => {
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true;
    target.scrollIntoView();
  };
  addEventListener('hashchange', reveal);
  reveal();
  for (const part of document.querySelectorAll('.runs')) {
    const filter = part.querySelector('.filter');
    const field = filter.querySelector('input');
    const told = filter.querySelector('output');
    const runs = [...part.querySelectorAll('.run')];
    filter.hidden = false;
    field.addEventListener('input', () => {
      const words = field.value.toLowerCase().split(/\\s+/).filter((word) => word !== '');
      let shown = 0;
      for (const run of runs) {
        const text = run.textContent.toLowerCase();
        run.hidden = !words.every((word) => text.includes(word));
        if (!run.hidden) shown++;
      }
      for (const group of part.querySelectorAll('.group')) {
        const found = group.querySelector('.run:not([hidden])') !== null;
        group.hidden = !found;
        if (words.length > 0 && found) group.open = true;
      }
      told.textContent = words.length === 0 ? '' : shown + ' of ' + runs.length + ' runs';
    });
  }
})();
`;
