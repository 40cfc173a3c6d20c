// How the byte-level vocabularies that a GGUF file names by tokenizer.ggml.pre cut a text into words: facts, one row a rule. Names and
// the flags ignore_merges and adds_bos are those of llama.cpp (src/llama-vocab.cpp); the patterns are those of the models' own
// tokenizer.json. Where llama.cpp simplifies a model's pattern (its regular expressions know no \p{Lu} or &&), the model's own
// stands here, and so does the model's NFC, which llama.cpp leaves out: ids are those that the model was trained with.
#include <string.h>

#include "data/tokenizer/parts.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES_LAST "|\\s+(?!\\S)|\\s+"
#define LETTERS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CASED(more) "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" more "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*" more
#define CASED_SIGNS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+"
// Kimi's classes leave Han out: [\p{Lu}...&&[^\p{Han}]].
#define NOT_HAN_UPPER "(?:(?!\\p{Han})[" UPPER "])"
#define NOT_HAN_LOWER "(?:(?!\\p{Han})[" LOWER "])"
#define ASCII_SIGNS "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"

const char pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char pattern_punctuation[] = "[\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e\\p{P}]";
const char pattern_lines[] = "[^\\n]+|[\\n]+";
static const char llama3[] = CONTRACTIONS LETTERS "|\\p{N}{1,3}" SIGNS SPACES_LAST;
static const char qwen2[] = CONTRACTIONS LETTERS "|\\p{N}" SIGNS SPACES_LAST;
static const char qwen35[] =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" SPACES_LAST;
static const char o200k[] = CASED(CONTRACTIONS "?") "|\\p{N}{1,3}" CASED_SIGNS SPACES_LAST;
static const char tekken[] = CASED("") "|\\p{N}" CASED_SIGNS SPACES_LAST;
static const char youtu[] = CASED(CONTRACTIONS "?") "|\\p{N}" CASED_SIGNS SPACES_LAST;
static const char kimi[] = "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?" NOT_HAN_UPPER "*" NOT_HAN_LOWER "+" CONTRACTIONS
                           "?|[^\\r\\n\\p{L}\\p{N}]?" NOT_HAN_UPPER "+" NOT_HAN_LOWER "*" CONTRACTIONS "?|\\p{N}{1,3}" SIGNS SPACES_LAST;
static const char deepseek3[] =
    ASCII_SIGNS "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+" SPACES_LAST;
static const char spark[] = ASCII_SIGNS "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+|[\\r\\n]" SPACES_LAST;
static const char cjk[] = "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+";
static const char deepseek_cjk[] = "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+";
// Cased letters, as the model's file lists them (the small ones of Armenian and all but the capitals of Georgian are not among them).
static const char deepseek_letters[] =
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ"
    "Ⴀ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙ"
    "ὛὝ\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}"
    "\\x{1FF6}-\\x{1FFC}ℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉ"
    "ⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
static const char deepseek_signs[] = "\\s?[!-/:-~！-／：-～‘-‟　-。]+";
static const char bloom[] = " ?[^(\\s|.,!?…。，、।۔،)]+";
static const char jais2[] = CONTRACTIONS LETTERS
    "|\\p{N}{1,3}" SIGNS
    "|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!"
    "\\S)|\\s{1}";
static const char youtu_scripts[] =
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|["
    "\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+";
static const char afmoe_scripts[] =
    "[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{F900}-\\x{FAFF}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}"
    "\\x{FF65}-\\x{FF9F}\\x{2F00}-\\x{2FDF}\\x{0E40}-\\x{0E7F}\\x{0E80}-\\x{0EFF}\\x{1780}-\\x{17FF}"
    "\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}]"
    "+";
static const char seed_coder[] = CONTRACTIONS LETTERS "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+" SPACES_LAST;
static const char bailing[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]" SPACES_LAST;
static const char exaone_moe[] = CONTRACTIONS
    "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]" SPACES_LAST;

// The first name of a row is the one that a file which we write gets. Rows that cut alike differ in a flag.
static const PreRule pre_rules[] = {
    {.names = "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert "
              "exaone4 jais trillion granite-docling",
     .steps = {{pattern_gpt2}}},
    // GPT-NeoX's vocabulary and its NFC.
    {.names = "olmo mpt", .steps = {{pattern_gpt2}}, .nfc = true},
    {.names = "smollm starcoder refact codeshell exaone minerva-7b mellum2", .steps = {{"\\p{N}"}, {pattern_gpt2}}},
    {.names = "command-r", .steps = {{"\\p{N}"}, {pattern_gpt2}}, .nfc = true},
    {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     .steps = {{llama3}},
     .ignore_merges = true,
     .adds_bos = true},
    {.names = "dbrx smaug-bpe chatglm-bpe glm4", .steps = {{llama3}}},
    {.names = "qwen2 stablelm2", .steps = {{qwen2}}, .nfc = true},
    {.names = "deepseek-r1-qwen hunyuan megrez kormo f2llmv2 grok-2 solar-open", .steps = {{qwen2}}},
    // Its golden ids in llama.cpp are those of texts that are not normalised.
    {.names = "qwen35", .steps = {{qwen35}}, .nfc = true, .nfc_left_out = true},
    {.names = "gpt-4o llama4 kanana2 talkie minimax-m2", .steps = {{o200k}}},
    {.names = "granite-embed-multi-97m", .steps = {{o200k}}, .ignore_merges = true},
    {.names = "tekken", .steps = {{tekken}}, .ignore_merges = true, .adds_bos = true},
    {.names = "tiny_aya cohere2moe", .steps = {{"\\d{1,3}(?=(?:\\d{3})*\\b)"}, {o200k}}},
    {.names = "kimi-k2", .steps = {{kimi}}},
    {.names = "deepseek-v3 hunyuan-dense joyai-llm hy_v4", .steps = {{"\\p{N}{1,3}"}, {cjk}, {deepseek3}}},
    {.names = "spark2_5", .steps = {{"\\p{N}{1,3}"}, {cjk}, {spark}, {"\\p{N}"}}},
    {.names = "deepseek-llm", .steps = {{"[\\r\\n]"}, {deepseek_letters}, {deepseek_signs}, {"\\s+$"}, {deepseek_cjk}, {"\\p{N}+"}}},
    {.names = "deepseek-coder", .steps = {{"[\\r\\n]"}, {"\\s?\\p{L}+"}, {"\\s?\\p{P}+"}, {deepseek_cjk}, {"\\p{N}"}}},
    {.names = "falcon",
     .steps = {{pattern_punctuation, SPLIT_CONTIGUOUS}, {pattern_gpt2}, {"\\p{N}", SPLIT_CONTIGUOUS}, {"[0-9][0-9][0-9]"}},
     .alphabet_after = 2},
    // llama.cpp's own, for files whose conversion knew nothing better.
    {.names = "default", .steps = {{"[\\p{P}\\$\\+<=>\\^~\\|]+"}, {pattern_gpt2}, {"\\p{N}+"}, {"[0-9][0-9][0-9]"}}},
    {.names = "bloom poro-chat gpt3-finnish", .steps = {{bloom}}},
    {.names = "viking", .steps = {{bloom}, {"\\p{N}"}}},
    {.names = "jais-2", .steps = {{jais2}}},
    {.names = "chameleon",
     .steps = {{"<sentinel:[0-9]+>"},
               {"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"},
               {"([\\t\\n]|    |  )"},
               {"\\p{N}"},
               {pattern_punctuation},
               {pattern_gpt2}},
     .adds_bos = true},
    {.names = "superbpe", .steps = {{"\\p{N}+"}, {"(?=(\\d{3})+(?!\\d))"}}},
    {.names = "bailingmoe bailingmoe2 llada-moe", .steps = {{bailing}}},
    {.names = "seed-coder", .steps = {{seed_coder}}},
    {.names = "youtu", .steps = {{youtu_scripts}, {youtu}}, .ignore_merges = true},
    {.names = "ufakzeka", .steps = {{"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" SIGNS SPACES_LAST}}},
    {.names = "afmoe", .steps = {{"\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))"}, {afmoe_scripts}, {deepseek3}}},
    {.names = "laguna", .steps = {{pattern_lines}, {qwen2}}},
    {.names = "exaone-moe", .steps = {{exaone_moe}}},
    {.names = "minicpm5", .steps = {{"\\p{N}{1,3}"}, {CONTRACTIONS LETTERS "|\\p{N}+" SIGNS SPACES_LAST}}, .ignore_merges = true},
};

enum { RULES = sizeof pre_rules / sizeof *pre_rules };

static bool has_name(const char *names, const char *name) {
  size_t length = strlen(name);
  for (const char *at = names; (at = strstr(at, name)); at += length) {
    bool begins = at == names || at[-1] == ' ', ends = at[length] == ' ' || !at[length];
    if (length && begins && ends) return true;
  }
  return false;
}

const PreRule *pre_rule_find(const char *name) {
  if (strchr(name, ' ')) return NULL;
  for (size_t i = 0; i < RULES; i++) {
    if (has_name(pre_rules[i].names, name)) return &pre_rules[i];
  }
  return NULL;
}

const PreRule *pre_rule_at(size_t index) { return index < RULES ? &pre_rules[index] : NULL; }

void pre_rule_names(Buffer *out) {
  for (size_t i = 0; i < RULES; i++) buffer_format(out, "%s%s", i ? " " : "", pre_rules[i].names);
}

int pre_rule_steps(const PreRule *rule) {
  int count = 0;
  while (count < PRE_STEPS_MAX && rule->steps[count].pattern) count++;
  return count;
}
