/**
 * How the page looks: in light, in dark, on paper, on a phone. Colours of data are those of Okabe and Ito ("Color Universal Design", 2008),
 * which colour-blind people tell apart, lightened where they stand on a dark ground; no meaning is in colour alone.
 */

const LIGHT = `
--page:#fbfbf9;--card:#fff;--ink:#1d2127;--soft:#59616b;--line:#dcdfe3;--grid:#e8eaed;--link:#0b5cad;--notice:#fff4d6;--notice-line:#c98a00;--stripe:#f5f6f8;
--good:#0072b2;--fair:#56b4e9;--bad:#d55e00;--sdc:#9e4f83;--calm:#c3c8ce;--detect:#e69f00;--own:#6b7280;
--nilihype:#007a58;--rehype:#8a5a00;
--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#9e4f83;--s4:#b07c00;--s5:#4b5563;--on-strong:#fff;--on-light:#1d2127;`;
const DARK = `
--page:#14171b;--card:#1b1f25;--ink:#e7e9ec;--soft:#a3abb5;--line:#363c45;--grid:#2b3038;--link:#7cbcff;--notice:#33290f;--notice-line:#e6b035;--stripe:#20252c;
--good:#3f9fdc;--fair:#a5d8f8;--bad:#ff8b45;--sdc:#e08fc4;--calm:#59616b;--detect:#f0bb4a;--own:#9aa2ad;
--nilihype:#3cc79b;--rehype:#d9a441;
--s0:#56b4e9;--s1:#ff8b45;--s2:#3cc79b;--s3:#e08fc4;--s4:#f0d04a;--s5:#b4bcc6;--on-strong:#10141a;--on-light:#10141a;`;

const classes = (names: readonly string[], rule: (name: string) => string): string => names.map(rule).join('');
const SERIES = ['s0', 's1', 's2', 's3', 's4', 's5'];
const COLOURS = ['good', 'fair', 'bad', 'sdc', 'calm', 'detect', 'nilihype', 'rehype', ...SERIES];
const DASHES = ['none', '9 4', '2 3', '12 3 2 3', '5 3', '1 4'];

export const PAGE_STYLE = `
:root{color-scheme:light dark;${LIGHT}}
@media(prefers-color-scheme:dark){:root{${DARK}}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
header{border-bottom:3px solid var(--good);margin-bottom:1rem}
.brand{margin:0;color:var(--soft);font-size:.85rem;letter-spacing:.06em;text-transform:uppercase}
h1{margin:.1rem 0;font-size:1.8rem;line-height:1.2;overflow-wrap:anywhere}
.subtitle{margin:.2rem 0 .9rem;color:var(--soft)}
h2{margin:2.6rem 0 .6rem;font-size:1.35rem;line-height:1.25}
h3{margin:1.6rem 0 .4rem;font-size:1.05rem}
p{margin:.5rem 0;max-width:46rem;overflow-wrap:anywhere}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:0;padding:0;list-style:none;font-size:.92rem}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.notice{max-width:none;padding:.6rem .8rem;background:var(--notice);border-left:4px solid var(--notice-line)}
figure{margin:1rem 0;padding:.8rem 1rem .5rem;background:var(--card);border:1px solid var(--line);border-radius:6px}
figcaption{font-weight:600}
.chart{display:block;width:100%;height:auto;margin:.4rem auto 0}
.narrow{display:none}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;margin:.35rem 0;padding:0;list-style:none;font-size:.85rem;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:.4rem;min-width:0}
.legend.small{font-size:.8rem}
.swatch{flex:none}
.chart text{font-size:12.5px;fill:var(--ink);font-family:inherit}
.chart .tick,.chart .axis-title{fill:var(--soft)}
.chart .group-title{font-weight:700;font-size:13.5px}
.chart .row-figure{fill:var(--soft);font-variant-numeric:tabular-nums}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}
.whisker{stroke:var(--ink);stroke-width:1.5;fill:none}
.whisker.stroke{stroke-width:2.5}
.whisker-ground{stroke:var(--card);stroke-width:4.5;fill:none;stroke-linecap:square}
.dot{stroke:var(--card);stroke-width:1.5}
.mark{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 3}
.mark.quantile{stroke:var(--ink);stroke-dasharray:none;stroke-width:1}
.chart .mark-text{paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-dasharray:none;stroke-linejoin:round;font-size:12.5px}
.curve{fill:none;stroke-width:2.5;stroke-linejoin:round}
${classes(COLOURS, (name) => `.fill.${name}{fill:var(--${name})}.stroke.${name},.curve.${name}{stroke:var(--${name})}`)}
.fill.ours{fill:var(--good)}.stroke.ours{stroke:var(--good)}.fill.ours-fault{fill:var(--own)}
.mark.nilihype{stroke:var(--nilihype)}.mark.rehype{stroke:var(--rehype)}.chart .mark-text.nilihype{fill:var(--nilihype)}.chart .mark-text.rehype{fill:var(--rehype)}
.chart .mark-text.nilihype,.chart .mark-text.rehype,.chart .mark-text.quantile{stroke:var(--card);stroke-width:5px}
${SERIES.map((name, index) => `.curve.${name}{stroke-dasharray:${DASHES[index]}}`).join('')}
.chart .in-bar{fill:var(--on-strong);font-size:12px}
.chart .on-fair,.chart .on-calm,.chart .on-detect{fill:var(--on-light)}
@media(prefers-color-scheme:dark){.chart .on-calm{fill:var(--ink)}}
.scroll{overflow-x:auto;margin:.2rem 0 1rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;width:100%}
.caption{margin:1.1rem 0 .2rem;font-weight:600;font-size:.95rem}
th,td{padding:.32rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
td:first-child,th:first-child{padding-left:.3rem}
td{min-width:3.2rem}td:first-child:not(.r){min-width:7rem}
.r{text-align:right}
td.r{white-space:nowrap}
tr.strong td{background:var(--stripe);font-weight:600}
.cell-bar{margin-right:.5rem;vertical-align:-.05em}
.file{overflow-wrap:anywhere}td .file,td:first-child code{white-space:nowrap}td{overflow-wrap:break-word}
summary{cursor:pointer}
.folded{margin:.4rem 0}
.folded>summary{color:var(--soft);font-size:.9rem}
.group{margin:.5rem 0;border:1px solid var(--line);border-radius:6px;background:var(--card)}
.group>summary{padding:.45rem .7rem;font-weight:600}
.run{border-top:1px solid var(--line);padding:.3rem .7rem;font-size:.88rem}
.run:target{background:var(--notice)}
.end{margin-left:.3rem}.detail{color:var(--soft);margin-left:.3rem;overflow-wrap:anywhere}
.dot-of::before{content:"";display:inline-block;width:.62em;height:.62em;border-radius:50%;margin-right:.4em;background:var(--own)}
${classes(COLOURS, (name) => `.dot-of.${name}::before{background:var(--${name})}`)}
.strip{display:block;width:100%;height:14px;margin:.5rem 0 .2rem}
.events{list-style:none;margin:.3rem 0 .5rem;padding:0}
.events li{display:grid;grid-template-columns:5.2rem minmax(0,1fr);gap:.7rem;padding:.1rem 0}
.at{text-align:right;white-space:nowrap;color:var(--soft);font-variant-numeric:tabular-nums}
.what{overflow-wrap:anywhere}
.filter input{font:inherit;width:16rem;max-width:100%;padding:.2rem .5rem;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:4px}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
@media(max-width:700px){
  .wide{display:none}.narrow{display:block}.narrow .chart{max-width:520px}
  body{padding:1rem .8rem 3rem}figure{padding:.6rem .5rem .4rem;margin:.8rem -.3rem}
  h1{font-size:1.45rem}h2{font-size:1.2rem;margin-top:2rem}
  .events li{grid-template-columns:4.9rem minmax(0,1fr);gap:.5rem}
}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
  :root{${LIGHT}--page:#fff;color-scheme:light}
  html{font-size:10pt}
  @page{size:A4;margin:14mm}
  body{max-width:none;padding:0;font-size:1rem}
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
  nav,.filter,.run:not([open]),.group:not(:has(.run[open])),.folded:not([open]){display:none}
  .wide{display:block}.narrow{display:none}
  figure,tr{break-inside:avoid}h2,h3,.caption,figcaption{break-after:avoid}
  .scroll{overflow:visible}table{font-size:7.8pt}th,td{padding:.2rem .35rem}td.r{white-space:normal}
  a{color:inherit;text-decoration:none}
}
`.replaceAll(/\n\s*/g, '\n');
