# cmake --install: the program with its manual page and completions, and the library (headers, one
# archive per room) for find_package(pith) and pkg-config.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The rooms of the library, each before those it needs. The command line is not part of it.
set(PITH_ROOMS calibrate eval convert runtime policy kv backend kernels model text gguf tensor base)

# The page and the completions are written by the program they are about.
set(shells bash zsh fish)
set(texts ${PROJECT_BINARY_DIR}/pith.1)
set(commands COMMAND pith man > ${PROJECT_BINARY_DIR}/pith.1)
foreach(shell ${shells})
  list(APPEND texts ${PROJECT_BINARY_DIR}/completion.${shell})
  list(APPEND commands COMMAND pith completion ${shell} >
                               ${PROJECT_BINARY_DIR}/completion.${shell})
endforeach()
if(NOT CMAKE_CROSSCOMPILING OR CMAKE_CROSSCOMPILING_EMULATOR)
  add_custom_command(OUTPUT ${texts} ${commands} DEPENDS pith COMMENT "Writing pith.1" VERBATIM)
  add_custom_target(pith_texts ALL DEPENDS ${texts})
  install(FILES ${PROJECT_BINARY_DIR}/pith.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${PROJECT_BINARY_DIR}/completion.bash RENAME pith
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
  install(FILES ${PROJECT_BINARY_DIR}/completion.zsh RENAME _pith
          DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
  install(FILES ${PROJECT_BINARY_DIR}/completion.fish RENAME pith.fish
          DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()

install(TARGETS pith RUNTIME)
if(PITH_HAS_TRAIN)
  install(TARGETS pith-train pith-train-vocabulary RUNTIME)
endif()
install(FILES README.md CHANGELOG.md CONTRIBUTING.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} PATTERN decisions EXCLUDE)

install(DIRECTORY src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pith
        FILES_MATCHING PATTERN "*.h" PATTERN "*.inl.h" EXCLUDE PATTERN apps EXCLUDE
        PATTERN train EXCLUDE)
set(archives pith_flags pith_methods_archive)
set_target_properties(pith_methods_archive PROPERTIES EXPORT_NAME methods_archive)
foreach(room ${PITH_ROOMS})
  set_target_properties(pith_${room} PROPERTIES EXPORT_NAME ${room})
  list(APPEND archives pith_${room})
endforeach()
set_target_properties(pith_flags PROPERTIES EXPORT_NAME flags)
install(TARGETS ${archives} EXPORT pith ARCHIVE)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pith)
install(EXPORT pith NAMESPACE pith:: FILE pithTargets.cmake DESTINATION ${package_dir})
configure_package_config_file(cmake/pithConfig.cmake.in ${PROJECT_BINARY_DIR}/pithConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pithConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pithConfig.cmake ${PROJECT_BINARY_DIR}/pithConfigVersion.cmake
        DESTINATION ${package_dir})

# pkg-config: archives that exist, in link order.
set(PITH_PC_LIBS "")
foreach(room ${PITH_ROOMS})
  get_target_property(type pith_${room} TYPE)
  if(type STREQUAL STATIC_LIBRARY)
    string(APPEND PITH_PC_LIBS " -lpith_${room}")
  endif()
endforeach()
# Relative, so that the tree may be moved and --prefix given when installing.
file(RELATIVE_PATH PITH_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" PITH_PC_PREFIX ${PITH_PC_PREFIX})
configure_file(cmake/pith.pc.in ${PROJECT_BINARY_DIR}/pith.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/pith.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
