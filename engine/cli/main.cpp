// manyhop VERB: the library from a shell. Errors are one line on standard error.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/engine/version.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "options.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

constexpr std::array<std::string_view, 9> kVerbs{"gen",    "info",    "spectral", "attend", "diffuse",
                                                 "design", "convert", "spy",      "bench"};

int fail(int code, std::string_view sentence) {
  std::string line(sentence);
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::replace(line.begin(), line.end(), '\r', ' ');
  note(line);
  return code;
}

void check_verb(int argc, char** argv) {
  if (argc < 2) throw ValueError("no verb given: manyhop VERB, see manyhop --help");
  const std::string_view first = argv[1];
  if (!first.starts_with('-') && std::find(kVerbs.begin(), kVerbs.end(), first) == kVerbs.end())
    throw ValueError(fmt::format("'{}' is no verb: expected {}", first, fmt::join(kVerbs, ", ")));
}

// What is left over after a verb's options and arguments.
std::string left_over(const CLI::App& app) {
  const std::vector<CLI::App*> verbs = app.get_subcommands();
  const CLI::App& verb = verbs.empty() ? app : *verbs.front();
  const std::string where = verbs.empty() ? "" : verb.get_name() + ": ";
  const std::vector<std::string> words = app.remaining(true);
  const auto is_option = [](const std::string& word) { return word.size() > 1 && word.front() == '-'; };
  const auto option = std::find_if(words.begin(), words.end(), is_option);
  if (option == words.end()) {
    return fmt::format("{}one argument too many: '{}', see manyhop VERB --help", where,
                       words.empty() ? "" : words.front());
  }
  std::vector<std::string> names;
  for (const CLI::Option* known : verb.get_options()) {
    if (!known->get_positional()) names.push_back(known->get_name());
  }
  return fmt::format("{}no option {}: expected one of {}", where, *option, fmt::join(names, " "));
}

int run(int argc, char** argv) {
  CLI::App app("Token graphs, sparse attention, multi-hop diffusion and their spectra.", "manyhop");
  Session session;
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", fmt::format("manyhop {}", version()));
  app.footer("A GRAPH is a pattern text with -n, as 'window(4)|global(2)', or a file: " +
             fmt::format("{}", fmt::join(graph_suffixes(), " ")) +
             "\n- is standard input or output.  manyhop VERB --help shows options and examples.\n"
             "Exit codes: 0 done, 1 failure, 2 usage or bad input, 3 not converged (result written), 130 "
             "interrupted.");
  add_gen(app, session);
  add_info(app, session);
  add_spectral(app, session);
  add_attend(app, session);
  add_diffuse(app, session);
  add_convert(app, session);
  add_spy(app, session);
  add_design(app, session);
  add_bench(app, session);

  try {
    check_verb(argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print(app.help());
    return kOk;
  } catch (const CLI::CallForVersion&) {
    print(fmt::format("manyhop {}\n", version()));
    return kOk;
  } catch (const CLI::ExtrasError&) {
    return fail(kUsage, left_over(app));
  } catch (const CLI::ParseError& error) {
    return fail(kUsage, error.what());
  }
  if (!session.run) throw ValueError("no verb given: manyhop VERB, see manyhop --help");
  session.prepare();
  const ThreadScope scope(session.context.threads, session.context.stop);
  return session.run();
}

}  // namespace
}  // namespace manyhop::cli

int main(int argc, char** argv) {
  using namespace manyhop;
  using namespace manyhop::cli;
  hold_standard_streams();
  start_signal_thread();
  try {
    return run(argc, argv);
  } catch (const Interrupted&) {
    return first_to_say_interrupted() ? fail(kInterrupted, "interrupted") : kInterrupted;
  } catch (const Error& error) {
    return fail(kUsage, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFailure, "out of memory: try a smaller size or --memory-limit");
  } catch (const std::exception& error) {
    return fail(kFailure, error.what());
  }
}
