"""Tests that run with the slow ones, because the default tests keep the same promise once: of another kind, method, library or
moment, or one floor further down. The list holds what takes longest; a test that is dear in itself bears the mark `slow`.

An entry names a test, all its cases, one of them, or with * those that begin so.
"""

REPETITIONS = """
    test_repairs::test_a_repaired_module_is_one_graph
    test_repairs::test_the_same_weights_in_another_library_get_the_same_repair
    test_repairs::test_every_method_keeps_every_promise[position-rows]
    test_outliers_found::test_they_are_the_scans[low-norm]
    test_outliers_found::test_they_are_the_scans[last-block]
    test_outliers_found::test_batches_and_devices_do_not_change_what_is_found
    test_mask_keys::test_planted_sinks_get_no_attention_from_patches
    test_position_rows::test_outliers_that_follow_the_image_are_no_rows_work
    test_substituted_outliers::test_it_restores_planted_outliers[lof]
    test_substituted_outliers::test_at_the_output_only_earlier_blocks_keep_them
    test_substituted_outliers::test_the_published_form_acts_after_the_last_block_but_one
    test_auto::test_none_is_kept_where_all_do_too_much_damage
    test_causal_study::test_a_twin_stands_beside
    test_causal_task::test_batches_do_not_matter
    test_exports::test_timm_alone_opens_a_model_repaired_in_its_weights[ours-position-rows]
    test_exports::test_transformers_alone_opens_a_model_repaired_in_its_weights[ours-position-rows]
    test_exports::test_timm_builds_its_models_again[distilled]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled blocks]
    test_trace::TestTrace::test_compiled_blocks_run_uncompiled_under_hooks
    test_planted_model::test_the_seed_decides_everything_and_nothing_else_does
    test_planted_model::test_the_outliers_are_where_the_truth_says[hidden-0]
    test_planted_model::test_the_outliers_are_where_the_truth_says[last-block-0]
    test_planted_model::test_zeroing_the_neurons_gives_the_clean_twin_and_other_neurons_do_not[low-norm]
    test_norm_scale::test_tokens_without_any_norm_are_counted_and_their_ratio_stays_a_number
    test_unusual_pages::test_the_page_of_a_scan[DropsTokens]
    test_complexity_task::test_vit_b16_shows_the_increase_of_appendix_b
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[openclip:ViT-S-32-alt]
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[timm:deit_tiny_distilled_patch16_224]
    test_multicrop::test_changes_happen_as_often_as_said[jitter]
    test_multicrop::test_changes_happen_as_often_as_said[solarize]
    test_multicrop::test_changes_happen_as_often_as_said[grey]
    test_scan_resumed::test_another_edit_or_other_weights_of_the_same_name_begin_anew
    test_scan_resumed::test_a_scan_killed_at_any_moment_goes_on_and_says_the_same[saving-2]
    test_scan_resumed::test_a_spill_that_became_a_link_is_not_written_through[symlink]
    test_scan_resumed::test_a_full_disk_keeps_the_pass_and_says_so[tally]
    test_scan_resumed::test_ctrl_c_when_all_images_were_seen_keeps_them[readout]
    test_scan_resumed::test_damaged_sums_begin_anew[spill]
    test_scan_parity::test_statistics_of_a_bfloat16_forward_are_within_two_percent_of_fp32
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 softmax-all knobs]
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 shared head-all knobs]
    test_recipes::test_every_recipe_keeps_its_promises[dino-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[clip-no registers]
    test_self_distill::test_two_processes_are_one[centre-fsdp]
    test_self_distill::test_two_processes_are_one[sinkhorn-fsdp]
    test_processes::test_a_model_of_another_library_trains_alike_on_two[ddp]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[fix]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[repairs]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[reproduce]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[maps]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[fix]
    test_nothing_is_lost::test_a_result_that_went_beside_has_its_page_and_figures[eval]
    test_nothing_is_lost::test_a_result_that_went_beside_has_its_page_and_figures[discover]
    test_nothing_is_lost::test_an_interrupted_result_does_not_take_the_place_of_a_complete_one[discover]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[open_clip-spread]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[torchvision-spread]
    test_terminal::test_help_ends_at_any_width[-3]
    test_terminal::test_help_ends_at_any_width[5]
    test_terminal::test_help_ends_at_any_width[100000000]
    test_extract::test_archives_give_what_their_files_give[tar]
    test_checkpoint_cut_short::test_killed_at_any_moment_a_whole_checkpoint_is_left[the same step again]
    test_maps_as_targets::test_it_learns_resumes_and_is_judged[toy-mask-0.45]
    test_curves::test_artifacts_written_into_a_model_are_found_at_the_step_they_were_written
    test_discover::test_a_model_whose_patches_are_all_alike_finds_no_box_and_says_so[maskcut]
    test_loader::test_memory_does_not_grow_with_the_number_of_images[tgz]
    test_page_browser::test_pointing_at_a_token_reads_its_norm_and_draws_what_it_attends_to[attention]
    test_train_dry::test_a_dry_run_says_what_a_run_needs_and_leaves_nothing[dinov2]
    test_train_dry::test_a_dry_run_says_what_a_run_needs_and_leaves_nothing[mae]
    test_draw_again::test_a_verb_goes_over_what_was_drawn_again
    test_features_resumed::test_processes_share_one_extraction[ranks1]
    test_auto::test_the_best_repair_for_a_kind_is_kept
    test_eval::test_a_scan_never_writes_over_the_result_of_a_task
    test_foreign_base::test_a_run_that_is_killed_and_resumed_ends_as_the_uninterrupted_one
    test_attention_parity::test_transformers[DeiTModel]
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 sinkhorn-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[supervised ce-no registers]
    test_draw_again::test_a_folder_is_drawn_as_it_was[discover]
    test_draw_again::test_a_folder_is_drawn_as_it_was[maps]
    test_draw_again::test_a_folder_is_drawn_as_it_was[repairs]
    test_page::test_importing_the_report_does_not_import_torch
    test_planted_model::test_truth_holds_at_another_size_and_with_registers[high-norm]
    test_distill::test_ctrl_c_leaves_the_model_as_it_was
    test_maps_verb::test_on_photographs_limit_and_names
    test_causal_study::test_the_most_attended_patch_stands_for_sinks_where_there_are_no_outliers
    test_nothing_is_lost::test_the_same_command_may_be_given_again[reproduce]
    test_draw_again::test_without_torch
    test_repairs_verb::test_an_interrupted_table_goes_on_from_its_rows
    test_border::test_it_is_trained_and_its_control_is_the_border_alone
    test_directions::test_the_artifact_of_a_planted_model_is_predicted
    test_repairs::test_a_repair_keeps_every_promise_at_another_size
    test_scan_parity::test_the_batch_size_does_not_matter
    test_eval::test_a_result_never_vanishes_under_another
    test_pictures::test_claims_hold_where_it_was_planted
    test_pictures::test_four_copies_of_one_register_are_not_taken_for_different_ones
    test_pictures::test_boxes_that_cannot_be_had_take_one_claim_alone
    test_pictures::test_nothing_holds_on_the_clean_twin
    test_pictures::test_a_job_of_each_model_serves_all_figures_and_they_are_drawn_again_without_one
    test_pictures::test_maps_are_those_of_the_verb
    test_pictures::test_the_outliers_of_a_map_are_the_planted_ones
    test_training_jobs::test_experiments_share_models_and_scans
    test_training_jobs::test_nothing_is_claimed_from_one_seed_and_the_record_says_how_it_was_trained
    test_training_jobs::test_a_stopped_training_goes_on_from_its_checkpoint_to_the_same_weights
    test_exports::test_onnx_gives_the_tokens_and_answers_of_every_repaired_model[timm-test-time]
    test_border::test_an_empty_border_takes_the_outliers_of_a_model_that_compares_patches
    test_prefix::test_where_attention_wants_an_outlier_only_both_halves_together_help
    test_test_time::test_the_neurons_found_are_the_planted_writers[low-norm]
    test_draw_again::test_a_folder_is_drawn_as_it_was[reproduce]
    test_edited_modules::test_an_edited_model_that_does_not_compile_runs_with_its_edits
    test_zoo_verb::test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one
    test_zoo_verb::test_two_processes_share_a_run_and_each_has_the_whole_board
    test_public_models::test_some_build_without_weights_and_have_the_registers_stated[hf:facebook/dinov2-base]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[zoo]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[zoo]
    test_nothing_is_lost::test_a_file_of_the_user_survives_under_every_name_that_a_verb_writes[zoo]
    test_global_artifacts::test_registers_take_the_artifact[1]
    test_global_artifacts::test_registers_take_the_artifact[2]
    test_global_artifacts::test_other_patches_are_those_of_the_clean_twin[2]
    test_global_artifacts::test_outliers_forget_themselves_and_carry_the_mean[1]
    test_global_artifacts::test_outliers_forget_themselves_and_carry_the_mean[2]
    test_global_artifacts::test_without_erasers_they_remember[1]
    test_synthetic_scenes::test_a_task_reads_them[depth]
    test_synthetic_scenes::test_a_task_reads_them[tokens]
    test_synthetic_scenes::test_a_task_reads_them[position]
    test_synthetic_scenes::test_a_task_reads_them[linear]
    test_synthetic_scenes::test_a_verb_reads_them[fix]
    test_synthetic_scenes::test_a_verb_reads_them[repairs]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[timm dinov2 reg-near the peak]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[open_clip-near the peak]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[torchvision-near the peak]
    test_recipes::test_every_recipe_keeps_its_promises[mae-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[regression-no registers]
    test_backbones::test_other_networks_are_not_taken_for_a_vit[naflexvit_base_patch16_gap]
    test_vit::test_published_weights_load_into_timms_named_models[deit3_small_patch16_224-options1]
    test_explore_forms::test_no_width_needs_sideways_scrolling[768]
    test_explore_forms::test_ticks_do_not_touch[reach1]
    test_explore_forms::test_ticks_do_not_touch[reach2]
    test_page_browser::test_no_width_needs_sideways_scrolling[390]
    test_page_browser::test_no_width_needs_sideways_scrolling[768]
    test_comparison_browser::test_no_width_needs_sideways_scrolling[390]
    test_curves_browser::test_no_width_needs_sideways_scrolling[390]
    test_curves_browser::test_no_width_needs_sideways_scrolling[768]
    test_unusual_pages::test_the_page_of_a_scan[TokenMixer]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled in place]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled data parallel]
    test_given::test_wrapped_modules_work_as_what_they_wrap[data parallel of compiled]
    test_figures::test_one_block_one_image[high-norm]
    test_opened_again::test_the_size_that_a_table_was_read_for_is_remembered[words1]
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[timm:vit_small_patch16_dinov3]
    test_draw_again::test_pictures_that_were_not_kept_are_named_and_stay[discover-pictures/sheets.npz]
    test_draw_again::test_what_was_copied_in_from_another_result_is_not_drawn[curves]
    test_draw_again::test_what_was_copied_in_from_another_result_is_not_drawn[discover]
    test_draw_again::test_a_folder_is_drawn_as_it_was[zoo]
    test_train::test_scan_looks_into_a_run
    test_draw_again::test_the_picture_of_complexity_is_drawn_from_the_record
    test_clip_norm::test_patches_by_lot_clip_nothing
    test_zoo_verb::test_ctrl_c_in_a_scan_ends_the_run_and_leaves_no_row_of_it

    test_settings_are_read::test_every_setting_shows[dino: recipe.crops.*]
    test_settings_are_read::test_every_setting_shows[dino: model.*]
    test_settings_are_read::test_every_setting_shows[regression: model.*]
    test_settings_are_read::test_every_setting_shows[clip: model.size]
    test_settings_are_read::test_every_setting_shows[mae: model.size]
    test_settings_are_read::test_every_setting_shows[dinov2 softmax: model.size]
    test_processors::test_every_setting_is_read[CLIPImageProcessor-*]
    test_processors::test_the_nearest_pixel_is_the_librarys_also_where_two_are_equally_near[CLIPImageProcessorPil-*]
    test_processors::test_the_nearest_pixel_is_the_librarys_also_where_two_are_equally_near[ViTImageProcessor-*]
    test_backbones::test_every_family_keeps_every_promise[timm vit oblong]
    test_backbones::test_every_family_keeps_every_promise[timm deit3]
    test_backbones::test_every_family_keeps_every_promise[timm dinov2]
    test_backbones::test_every_family_keeps_every_promise[timm clip]
    test_backbones::test_every_family_keeps_every_promise[hf vit oblong]
    test_backbones::test_every_family_keeps_every_promise[hf vit classifier]
    test_backbones::test_every_family_keeps_every_promise[hf clip]
    test_backbones::test_every_family_keeps_every_promise[open_clip model]
    test_backbones::test_every_family_keeps_every_promise[hub dinov2]
    test_backbones::test_every_family_keeps_every_promise[hub deit3]
    test_backbones::test_every_family_keeps_every_promise[hub deit distilled of timm]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[hf dinov2 registers-spread]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[hf dinov2 registers-near the peak]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[timm dinov2 reg-spread]
    test_large_logits::test_features_in_bf16_are_as_near_to_fp32_as_the_librarys_own[timm dinov2 reg-spread]
    test_large_logits::test_features_in_bf16_are_as_near_to_fp32_as_the_librarys_own[timm dinov2 reg-near the peak]
    test_exports::test_what_a_format_cannot_hold_is_refused_in_a_sentence
    test_exports::test_a_model_and_its_repair_are_named_on_the_command_line

    test_every_verb::test_a_verb_does_its_work[lab]
    test_every_verb::test_a_run_is_named_by_its_folder_with_or_without_a_prefix[eval-*]
    test_every_verb::test_a_scan_says_its_precision_once_and_after_the_verdict
    test_scan::test_ctrl_c_keeps_what_was_scanned
    test_scan::test_black_images_at_a_small_size_have_a_result_with_all_its_figures
    test_scan_resumed::test_a_scan_killed_at_any_moment_goes_on_and_says_the_same[replacing-3]
    test_scan_resumed::test_other_settings_begin_anew
    test_scan_resumed::test_files_of_the_names_of_a_saved_pass_that_are_not_its_own_stay[sums]
    test_scan_resumed::test_files_of_the_names_of_a_saved_pass_that_are_not_its_own_stay[mark]
    test_scan_resumed::test_files_of_the_names_of_a_saved_pass_that_are_not_its_own_stay[linked spill]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[eval]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[maps]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[repairs]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[lab]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[discover]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[lab]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[eval]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[discover]
    test_nothing_is_lost::test_an_out_folder_that_cannot_be_made_again_gets_a_neighbour_that_is_named
    test_nothing_is_lost::test_input_images_that_lie_where_results_go_survive[True-discover-pictures]
    test_synthetic_scenes::test_a_verb_reads_them[extract]
    test_eval::test_the_cost_of_registers_is_drawn
    test_eval::test_what_a_dense_head_says_is_drawn
    test_train::test_a_folder_is_trained_in_by_one_process
    test_explore_forms::test_one_file_shows_the_same_and_asks_for_nothing
    test_explore_forms::test_the_story_of_a_group_follows_the_patch
    test_explore_forms::test_the_story_of_a_group_of_one_patch_is_told_of_one
    test_explore_forms::test_attention_is_also_shown_before_rotary_embedding
    test_explore_forms::test_a_notebook_shows_the_page_in_a_frame
    test_explore_forms::test_a_model_without_class_token_or_readable_attention_shows_the_rest
    test_explore_browser::test_the_nearest_patches_are_those_of_the_last_block

    test_processes::test_other_draws_would_be_seen[dinov2 sinkhorn]
    test_processes::test_other_draws_would_be_seen[dinov2 shared head]
    test_processes::test_other_draws_would_be_seen[supervised ema]
    test_processes::test_other_draws_would_be_seen[supervised bce]
    test_vit::test_timm_loads_our_weights_strictly_and_gives_the_same_outputs[0.01-0]
    test_vit::test_timm_loads_our_weights_strictly_and_gives_the_same_outputs[None-4]
    test_unusual_models::test_a_scan_finds_the_planted_patches_and_no_others[TokenMixer]
    test_unusual_models::test_the_token_table_has_every_token_that_is_there_at_its_place[RegistersBetween]
    test_unusual_pages::test_sheets_of_maps[RegistersBetween]
    test_unusual_pages::test_sheets_of_maps[TokenMixer]

    test_processes_beside::test_another_process_does_the_jobs_and_ends_with_the_block
    test_reproduce_killed::test_one_is_killed_and_the_other_takes_over
    test_clean_models::test_nothing_is_held_that_eight_photographs_can_decide
    test_reproduce_refuses::test_a_model_that_experiments_cannot_take_says_why_and_the_others_run
    test_reproduce::test_a_model_that_fails_says_why_and_the_others_run
    test_added_to_records::test_images_that_changed_are_not_the_same
    test_cost::test_what_is_needed_and_not_given_is_named
    test_scales::test_every_run_is_one_that_train_takes[lab]
    test_lab_runs::test_two_processes_share_a_design_and_both_end_with_all_of_it

    test_fuzz::test_a_header_that_promises_a_huge_picture_is_refused
    test_retrieval_tiles::test_scan_reads_it
    test_training::test_shared_memory_of_64_kilobytes_ends_a_run_with_a_sentence
    test_features_resumed::test_killed_at_any_moment_it_goes_on_bit_for_bit[batch-5]
    test_features_resumed::test_killed_at_any_moment_it_goes_on_bit_for_bit[half of a file-3]
    test_features_resumed::test_killed_at_any_moment_it_goes_on_bit_for_bit[before a file is in place-1]
    test_features_resumed::test_killed_at_any_moment_it_goes_on_bit_for_bit[after a file is in place-5]
    test_outputs::test_a_kill_at_any_moment_never_leaves_a_record_beside_parts_of_another[1]
    test_outputs::test_a_kill_at_any_moment_never_leaves_a_record_beside_parts_of_another[2]
    test_outputs::test_a_kill_at_any_moment_never_leaves_a_record_beside_parts_of_another[4]
    test_tokencut::test_noise_has_no_cut[64]

    test_weights_without_verdict::test_the_size_of_a_scan_explains_the_table_of_its_weights
    test_weights_without_verdict::test_random_weights_are_said_to_be_random_before_the_verdict
    test_weights_without_verdict::test_weights_that_are_no_numbers_or_zero_get_no_verdict[infinite-*]
    test_load::test_weights_at_the_size_that_the_user_names_give_the_features_of_the_model_at_that_size[another square]
    test_load::test_without_a_network_the_remedy_is_named[torchvision:vit_b_32]
    test_foreign_base::test_a_dry_run_counts_the_parameters_of_the_base
    test_own_recipe::test_a_base_that_it_does_not_build_is_refused_and_one_that_it_builds_is_trained
    test_self_distill::test_two_processes_are_one[dino-fsdp]
    test_until::test_a_bound_that_is_never_reached_ends_nothing
    test_plugins::test_a_detector_of_a_script_gives_the_verdict

    test_repair::test_a_repaired_model_is_a_model_in_every_verb
    test_repair::test_a_model_without_outliers_is_left_alone
    test_clip_norm::test_norms_are_ordinary_and_directions_stay_wrong
    test_substituted_outliers::test_the_local_outlier_factor_misses_a_crowd
    test_substituted_outliers::test_patches_by_lot_repair_nothing
    test_prefix::test_it_is_saved_and_each_image_alone_gives_the_same
    test_listed_neurons::test_the_neurons_of_a_list_are_moved_without_a_search[attention-bias]
    test_masks_and_probes::test_masks_and_labels_give_their_columns_and_what_is_missing_is_said
    test_zeroshot_column::test_a_model_without_a_text_tower_says_so
    test_repairs_verb::test_a_method_that_cannot_repair_a_model_says_so_in_its_row

    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig11]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig12]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig13]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig14]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig15]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig16]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig2*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig4*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig5*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig6*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig7*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig8*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[fig9*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[future]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[identical-registers]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[local-features]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[relocated-sinks]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[repaired-norms]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[table2*]
    test_about_every_number::test_every_figure_names_model_kind_images_and_source[table3]
    test_page::test_figures_and_the_page_are_named_where_they_fail_and_the_rest_is_written
    test_curves::test_reading_needs_no_torch
    test_curves::test_the_command_line_says_when_and_where
    test_explore::test_a_repair_is_a_document_of_its_own_behind_its_model
    test_explore::test_drawings_of_several_files_do_not_become_one_page
    test_live::test_a_repair_is_shown_at_the_block_of_its_model
    test_look::test_a_repair_of_another_model_is_refused
    test_discover::test_a_cut_of_which_nothing_is_named_is_chosen_without_labels[False]
    test_discover_left_out::test_a_disk_that_is_full_when_pictures_are_drawn_leaves_the_new_record_whole
    test_causal_task::test_numbers_stand_beside_as_many_random_patches
    test_causal_study::test_a_class_token_that_is_blind_to_its_outliers_does_not_use_them
    test_tokens::test_batches_do_not_matter
    test_several::test_other_settings_are_measured_anew[change1]
    test_several::test_other_settings_are_measured_anew[change2]
"""


def listed() -> list[str]:
    """The entries, each FILE::TEST or FILE::TEST[CASE], the file without its folder and suffix."""
    return [line.strip() for line in REPETITIONS.splitlines() if line.strip()]


def key_of(nodeid: str) -> str:
    """Write pytest's name of a test as the entries are written."""
    path, _, rest = nodeid.partition("::")
    return f"{path.rpartition('/')[2].removesuffix('.py')}::{rest}"


def is_repetition(nodeid: str) -> bool:
    """Say whether an entry names the test, all its cases, or the beginning of this one."""
    key = key_of(nodeid)
    return key in _WHOLE or key.partition("[")[0] in _WHOLE or key.startswith(_BEGINNINGS)


_WHOLE = {entry for entry in listed() if not entry.endswith("*]")}
_BEGINNINGS = tuple(entry.removesuffix("*]") for entry in listed() if entry.endswith("*]"))
