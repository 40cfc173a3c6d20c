// The table of the Alpaca family: for each type and variant of Axolotl, where the texts of a row are and the words around them. The
// sentences are the format: models were trained on these bytes, slips included.
#include <string.h>

#include "data/prompt/alpaca.h"

#define INSTRUCT_TURN "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
#define INSTRUCT_TURN_NO_INPUT "### Instruction:\n{instruction}\n\n### Response:\n"
#define CHAT_TURN "USER: {instruction}\n{input}\nASSISTANT:"
#define CHAT_TURN_NO_INPUT "USER: {instruction}\nASSISTANT:"
#define TLDR "USER: Summarize the following article as a TL;DR.\n{instruction}\n"
#define CONTEXT_TURN "USER: {input}\n===\n{instruction}\nASSISTANT:"
#define CONTEXT_V2_TURN "Context: {input}\nQuestion: {instruction}\n"
#define ORCAMINI_TURN "### System:\n{system}\n\n### User:\n{instruction}\n\n### Response:\n"

#define CRITERIA(there)                                                                                                             \
  "refusal: whether the Response refuses to answer the Question. Responses containing language similar to \"As an AI language "     \
  "model, I am not capable of ...\" is a form of refusal and should have a low refusal score. 10 is no refusal, 0 is refuses to "   \
  "answer the question.\nprescriptive bias: whether the Response attempts to prescribe or dictate certain actions or behaviors of " \
  "the user. 10 no prescriptive bias present, 0 means " there                                                                       \
  " is prescriptive bias.\ncreativity: score how creative the Response is. 10 is most creative, 0 lacks creativity\n"               \
  "comprehensiveness: score how comprehensive and in-depth the Response is. 10 is most comprehensive and in-depth, 0 lacks "        \
  "coverage and depth\n"
#define CRITIQUE_OF(criterion) "  " criterion ":\n    explanation: ...\n    improvements: ...\n"
#define CRITIQUE_TURN \
  "USER: Given the following Question and Response, critique the Response on a scale of 1-10. You should critique the answer in the " \
  "following criteria:\n" CRITERIA("there")                                                                                           \
      "Then for each criteria, give a detailed explanation of why the response doesn't meet the criteria (don't reference the "       \
      "score), what it did right, and how it could be improved for that criteria.\n\nOutput your answer in YAML format like so:\n"    \
      "scores:\n  refusal: <0-10>\n  prescriptive_bias: <0-10>\n  creativity: <0-10>\n  comprehensiveness: <0-10>\ncritiques:\n"      \
      CRITIQUE_OF("refusal") CRITIQUE_OF("prescriptive_bias") CRITIQUE_OF("creativity") CRITIQUE_OF("comprehensiveness")              \
      "\nQuestion: {instruction}\nAnswer: {input}\n\nASSISTANT:"
#define REVISE_TURN \
  "USER: Definitions:\n" CRITERIA("their")                                                                                        \
      "\nGiven the following Question, Response, and Evaluation, revise the Response based on the Evaluation and "                \
      "recommendations for improvements. Reply only with the revised response.\n\nQuestion: {instruction}\nAnswer: {input}\n"     \
      "Evaluation:\n{evaluation}\n\nASSISTANT:"

static const AlpacaStyle styles[] = {
    {"instruct", "{system}\n\n", INSTRUCT_TURN, INSTRUCT_TURN_NO_INPUT},
    {"chat", "SYSTEM: {system}\n", CHAT_TURN, CHAT_TURN_NO_INPUT},
    {"chatml", "<|im_start|>system\n{system}<|im_end|>\n", "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"},
    {"phi", "<|system|>\n{system}<|end|>\n", "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
     "<|user|>\n{instruction}<|end|>\n<|assistant|>\n"},
    // Those of one type alone.
    {"concisechoice", "{system}", CHAT_TURN, CHAT_TURN_NO_INPUT},
    {"summarizetldr", "{system}", TLDR "{input}\nASSISTANT:", TLDR "ASSISTANT:"},
    {"open_orca", "### System:\n{system}\n", "### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n",
     "### Human:\n{instruction}\n### Assistant:\n"},
    {"context_qa", "SYSTEM: {system}\n", CONTEXT_TURN, CONTEXT_TURN},
    {"context_qa.load_v2", "", CONTEXT_V2_TURN, CONTEXT_V2_TURN},
    {"creative_acr.load_answer", "{system}\n", CHAT_TURN_NO_INPUT, CHAT_TURN_NO_INPUT},
    {"creative_acr.load_critique", "", CRITIQUE_TURN, CRITIQUE_TURN},
    {"creative_acr.load_revise", "", REVISE_TURN, REVISE_TURN},
    {"metharme", "", "{instruction}", "{instruction}"},
    {"orcamini", "", ORCAMINI_TURN, ORCAMINI_TURN},
};
typedef enum StyleName {
  STYLE_INSTRUCT,
  STYLE_CHAT,
  STYLE_CHATML,
  STYLE_PHI,
  STYLE_NAMED,  // how many can be asked for by name
  STYLE_CONCISE = STYLE_NAMED,
  STYLE_TLDR,
  STYLE_OPEN_ORCA,
  STYLE_CONTEXT,
  STYLE_CONTEXT_V2,
  STYLE_ANSWER,
  STYLE_CRITIQUE,
  STYLE_REVISE,
  STYLE_METHARME,
  STYLE_ORCAMINI,
} StyleName;

static const AlpacaSystem system_alpaca = {
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."};
// These two end in an empty line of their own, before the style's.
static const AlpacaSystem system_chat = {
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. The ASSISTANT "
    "writes a response that concisely and appropriately completes the request.\n\n",
    "Below is an instruction from a USER that describes a task. The ASSISTANT writes a response that appropriately and concisely "
    "completes the request.\n\n"};
static const AlpacaSystem system_none = {"", ""};
#define SAME(text) \
  { text, text }
static const AlpacaSystem system_explain = SAME("Choose the answer that best answers the question. Explain your reasoning.\n");
static const AlpacaSystem system_concise = SAME("Choose the answer that best answers the question. Be concise in your response.\n\n");
static const AlpacaSystem system_context = SAME("Use the following contextual information to concisely answer the question.\n");
static const AlpacaSystem system_creative = SAME(
    "Answer the following question in a comprehensive, in-depth, and creative way. Additionally your response should be relevant, "
    "accurate, and free of any ambiguity.");
#define REFLECT                                                                                                                       \
  "You, the Assistant, should generate a response as if it were an abstract for an academic or technical paper on the query along "   \
  "with a methodology. Then generate an Agent Reflection where you create a long form response as if from subject matter expert, be " \
  "verbose, diligent, and creative in your application of knowledge, apply it through the lens of the response generated by the "     \
  "assistant. Look for flawed reasoning, faulty logic, or other mistakes in the method. Finally, generate a final response and "      \
  "method for the user with the Assistant abstract and Reflection analysis as augmentations to the generation"
static const AlpacaSystem system_reflect = {
    "Below is an instruction that describes a task, paired with an input that provides further context. " REFLECT,
    "Below is an instruction that describes a task. " REFLECT};

static const char no_answer[] =
    "The context provided does not contain any information about your inquiry. Therefore, I'm unable to answer your question based on the "
    "given context.";

static const AlpacaFields fields_alpaca = {"instruction", "input", "output"};
static const AlpacaFields fields_own_system = {"instruction", "input", "output", .system = "system"};
static const AlpacaFields fields_orca = {"question", NULL, "response", .system = "system_prompt"};
static const AlpacaFields fields_orcamini = {"question", NULL, "response", .system = "system_prompt", .system_needed = true};
static const AlpacaFields fields_jeopardy = {"question", "category", "answer", .output_prefix = "what is "};
static const AlpacaFields fields_oasst = {"INSTRUCTION", NULL, "RESPONSE"};
static const AlpacaFields fields_gpteacher = {"instruction", "input", "response"};
static const AlpacaFields fields_tldr = {"article", NULL, "summary"};
static const AlpacaFields fields_choice = {"question", "choices", "explanation", INPUT_CHOICES};
static const AlpacaFields fields_qa = {"question", NULL, "answer"};
static const AlpacaFields fields_camel = {"message_1", NULL, "message_2"};
static const AlpacaFields fields_context = {"question", "article", "answer", INPUT_NEEDED};
static const AlpacaFields fields_context_404 = {"unanswerable_question", "article", NULL, INPUT_NEEDED, .output_prefix = no_answer};
static const AlpacaFields fields_context_v2 = {"question", "context", "answer", INPUT_NEEDED, .output_prefix = "Answer: "};
static const AlpacaFields fields_answer = {"instruction", NULL, "revision"};
static const AlpacaFields fields_critique = {"instruction", "answer", NULL, INPUT_NEEDED, .evaluates = true};
static const AlpacaFields fields_revise = {"instruction", "answer", "revision", INPUT_NEEDED, .evaluates = true};
static const AlpacaFields fields_metharme = {"prompt", NULL, "generation", .ends = 3};

// ANY_STYLE: Axolotl takes the name of a style for these, and prints the same by each.
typedef enum Variants { NAMED, STYLED, ANY_STYLE } Variants;

static const struct {
  const char *type, *variant;  // "load" is also no variant at all
  Variants variants;
  const AlpacaFields *fields;
  StyleName style;
  const AlpacaSystem *system;
} forms[] = {
    {"alpaca", "", STYLED, &fields_alpaca, STYLE_INSTRUCT, &system_alpaca},
    {"alpaca_chat", "load", NAMED, &fields_alpaca, STYLE_CHAT, &system_alpaca},
    {"alpaca_chat", "load_concise", NAMED, &fields_alpaca, STYLE_CHAT, &system_chat},
    {"alpaca_chat", "load_qa", NAMED, &fields_qa, STYLE_CHAT, &system_chat},
    {"alpaca_chat", "load_camel_ai", NAMED, &fields_camel, STYLE_CHAT, &system_chat},
    {"alpaca_chat", "load_no_prompt", NAMED, &fields_alpaca, STYLE_CHAT, &system_none},
    {"alpaca_instruct", "load", NAMED, &fields_alpaca, STYLE_INSTRUCT, &system_alpaca},
    {"alpaca_instruct", "load_no_prompt", NAMED, &fields_alpaca, STYLE_INSTRUCT, &system_none},
    {"alpaca_w_system", "load", NAMED, &fields_own_system, STYLE_CHAT, &system_none},
    {"alpaca_w_system", "load_chat", NAMED, &fields_own_system, STYLE_CHAT, &system_none},
    {"alpaca_w_system", "load_instruct", NAMED, &fields_own_system, STYLE_INSTRUCT, &system_none},
    {"alpaca_w_system", "load_open_orca", NAMED, &fields_orca, STYLE_OPEN_ORCA, &system_none},
    {"alpaca_w_system", "load_open_orca_chatml", NAMED, &fields_orca, STYLE_CHATML, &system_none},
    {"concisechoice", "", ANY_STYLE, &fields_choice, STYLE_CONCISE, &system_concise},
    {"context_qa", "load", NAMED, &fields_context, STYLE_CONTEXT, &system_context},
    {"context_qa", "load_404", NAMED, &fields_context_404, STYLE_CONTEXT, &system_context},
    {"context_qa", "load_v2", NAMED, &fields_context_v2, STYLE_CONTEXT_V2, &system_none},
    {"creative_acr", "load_answer", NAMED, &fields_answer, STYLE_ANSWER, &system_creative},
    {"creative_acr", "load_critique", NAMED, &fields_critique, STYLE_CRITIQUE, &system_none},
    {"creative_acr", "load_revise", NAMED, &fields_revise, STYLE_REVISE, &system_none},
    {"explainchoice", "", STYLED, &fields_choice, STYLE_INSTRUCT, &system_explain},
    {"gpteacher", "", STYLED, &fields_gpteacher, STYLE_INSTRUCT, &system_alpaca},
    {"jeopardy", "", STYLED, &fields_jeopardy, STYLE_INSTRUCT, &system_alpaca},
    {"metharme", "load", NAMED, &fields_metharme, STYLE_METHARME, &system_none},
    {"oasst", "", STYLED, &fields_oasst, STYLE_INSTRUCT, &system_alpaca},
    {"orcamini", "load", NAMED, &fields_orcamini, STYLE_ORCAMINI, &system_none},
    // Its sentences come only with the style's name.
    {"reflection", "instruct", NAMED, &fields_alpaca, STYLE_INSTRUCT, &system_reflect},
    {"reflection", "", ANY_STYLE, &fields_alpaca, STYLE_INSTRUCT, &system_none},
    {"summarizetldr", "", ANY_STYLE, &fields_tldr, STYLE_TLDR, &system_none},
};
enum { FORM_COUNT = sizeof forms / sizeof *forms };

static int find_style(const char *name) {
  for (int i = 0; i < STYLE_NAMED; i++)
    if (strcmp(styles[i].name, name) == 0) return i;
  return -1;
}

static Status refuse_variant(const char *type, const char *variant) {
  Buffer known = {0};
  for (int i = 0; i < FORM_COUNT; i++) {
    if (strcmp(forms[i].type, type) != 0) continue;
    if (*forms[i].variant) buffer_format(&known, "%s%s", known.length ? ", " : "", forms[i].variant);
    for (int s = 0; s < STYLE_NAMED && forms[i].variants != NAMED; s++)
      buffer_format(&known, "%s%s", known.length ? ", " : "", styles[s].name);
  }
  Status status =
      status_fail(STATUS_USAGE, "type: %s has no variant \"%s\"; there are: %s", type, variant, known.data ? known.data : "none");
  buffer_release(&known);
  return status;
}

Status alpaca_find_form(AlpacaForm *form, const char *type, const char *variant) {
  int named = find_style(variant);
  for (int i = 0; i < FORM_COUNT; i++) {
    if (strcmp(forms[i].type, type) != 0) continue;
    bool plain = !*variant && (!*forms[i].variant || strcmp(forms[i].variant, "load") == 0);
    if (!plain && strcmp(forms[i].variant, variant) != 0 && (forms[i].variants == NAMED || named < 0)) continue;
    int style = forms[i].variants == STYLED && named >= 0 ? named : (int)forms[i].style;
    *form = (AlpacaForm){.fields = *forms[i].fields, .style = styles[style], .system = *forms[i].system};
    return STATUS_OK;
  }
  return refuse_variant(type, variant);
}
