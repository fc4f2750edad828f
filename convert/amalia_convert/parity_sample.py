"""The texts on which two tokenizers must agree: European Portuguese and code, with every awkward case, composed (NFC)."""

LETTERS = "AÇÃO, RECEÇÃO, ÓRGÃOS, É, ÀS, CORAÇÃO PORTUGUÊS; AÇÃOação, iPhone, telemóvelNovo, NASA e a ONU."
PROSE = (
    "Bom dia! Em que posso ajudar? O museu abre às dez horas e fecha às dezoito.",
    "Diz-me: vê-lo-ás amanhã? Fá-lo-íamos, se pudéssemos; dar-no-lo-iam à tardinha.",
    "À noite ouviu-se o «fado» — 1.ª e 2.º lugar, n.º 37, 3.ªs-feiras: 12 345,67 €, −5 °C, 50 % e ½ litro…",
    "Coração, ação, receção, facto, ótimo, húmido, bênção, pera, avó e avô, Müller, Açores, maçã, órgão, fôlego.",
    LETTERS,
    "O autocarro das 08h45 parte da linha 3; o comboio 1234567 chega às 23:59:59 de 25/04/1974.",
    "«Quem canta seus males espanta», dizia ela; “aspas”, ‘outras’, 'simples', \"duplas\", d'Água, l'été, it's, WE'LL, I'D.",
    "A professora ouviu-os e corrigiu-lhes a pronúncia: «pão», “mãe”, põe-nas, cãezinhos, irmã(s), c/ e s/ IVA!?!",
    "Escreva para receção@museu.pt ou veja https://www.exemplo.pt/visitas?língua=pt&ano=2026#horário.",
)
SPACES = (
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "\n\n\n",
    "a",
    "é",
    " começa por um espaço",
    "acaba em espaço ",
    "  dois antes,   três no meio e quatro depois    ",
    "tabulador\taqui,\t\tdois e\t \t misturados",
    "linhas\num salto\n\ndois\n\n\ntrês\n",
    "linhas de Windows\r\ncom retorno\r\n\r\ne só retorno\rfim",
    "espaço no fim da linha \n  e recuo na seguinte\n\tou tabulador \n \n",
    "espaço\u00a0inseparável, fino\u202f1\u202f000, largo\u3000e sem largura\u200bnenhuma",
    "                                                                                pois",
    "1 22 333 4444 55555 666666 7777777 88888888 0,5 .5 5. 1.000.000 1e-5 0x1F ²³ ¼",
    "...... ------ ====== ****** ______ !!!!!! ?????? ;;;; ,,,, '''' \"\"\"\" ```` (((())))[[]]{{}}",
)
SCRIPTS = (
    "Emojis: 😀👍🏽🇵🇹🇧🇷👩‍👩‍👧‍👦🏳️‍🌈❤️🧑🏿‍🚀 e texto a seguir",
    "русский, ελληνικά, עברית, العربية, हिन्दी, 中文字, 日本語のテキスト, 한국어, ไทย, ქართული",
    "ø å æ ß ł ž đ ő ğ ı İ ñ ý þ œ Š Ÿ ŕ",
    "x² + y² = z², √2 ≈ 1,414, ∑ αᵢ ≤ ∞, A ⊂ B → ∀x ∈ ℝ; © ® ™ § ¶ † • · ¿ ¡",
    "\u0007 sino, \u001b[31mcor\u001b[0m, \ufeffmarca",
)
CODE = (
    'def média(valores: list[float]) -> float:\n    """Dá a média."""\n    return sum(valores) / len(valores)\n',
    "for (int i = 0; i < n_linhas; ++i) {\n\t\tx[i] += 'ç' * 2.5e-3f;  // não há\n\t}\n",
    "if __name__ == '__main__':\n        print(f\"{nome!r:>10}\\n\", file=sys.stderr)\n",
    "SELECT nome, COUNT(*) FROM visitas WHERE ano >= 2024 AND nome LIKE '%João%' GROUP BY 1;",
    '{"mensagem": "Olá,\\n mundo", "números": [1, 2.0, -3e4], "nada": null, "sim": true}',
    '<p class="título">Bem-vindo&nbsp;<b>à</b> loja</p><!-- nota --><br/>',
    "$ git commit -m 'Correção' && make -j4 ../saída/*.o | grep -E '^[a-z]+$' > /dev/null 2>&1",
    "camelCase snake_case SCREAMING_CASE kebab-case PascalCase HTTPServer2 a1b2c3 v0.3.36-rc1",
)
PLAIN = PROSE + SPACES + SCRIPTS + CODE
AROUND = (
    "{}Olá, avó",
    "{} Olá, avó",
    "{}\nOlá",
    "Olá{}",
    "Olá {}{} até já",
    " {}  dois espaços",
    "linha\n{}\n{}Às nove",
)
