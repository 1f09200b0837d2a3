#pragma once

#include "options.hpp"

namespace manyhop::cli {

void add_gen(CLI::App& app, Session& session);
void add_info(CLI::App& app, Session& session);
void add_spectral(CLI::App& app, Session& session);
void add_attend(CLI::App& app, Session& session);
void add_diffuse(CLI::App& app, Session& session);
void add_convert(CLI::App& app, Session& session);
void add_spy(CLI::App& app, Session& session);
void add_design(CLI::App& app, Session& session);
void add_bench(CLI::App& app, Session& session);

}  // namespace manyhop::cli
